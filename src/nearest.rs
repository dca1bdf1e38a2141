//! The known name that a misspelt one was probably meant to be.
//!
//! `strsim` measures the distance. What counts as near is decided here.

/// The name of `known` that `given` was probably meant to be.
///
/// A name is near if at most a third of its letters (and always one) were added, left out, replaced
/// or swapped with a neighbour. Failing that, a name that contains `given` as a whole part, or the
/// other way round, will do: `ip` for `client_ip`, `maximum` for `max`.
pub fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let by_spelling = known
        .iter()
        .map(|name| (strsim::osa_distance(given, name), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name);
    by_spelling.or_else(|| {
        let mut names = known.iter().copied();
        names.find(|name| is_part(name, given) || is_part(given, name))
    })
}

/// Whether `part` is the beginning of `whole`, or what follows one of its underscores.
fn is_part(whole: &str, part: &str) -> bool {
    let begins = part.len() >= 3 && whole.starts_with(part);
    begins
        || whole
            .strip_suffix(part)
            .is_some_and(|rest| rest.ends_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_recognised_and_another_word_is_not() {
        let known = ["limit", "limits", "match", "name"];
        assert_eq!(nearest("limt", &known), Some("limit"));
        assert_eq!(nearest("nam", &known), Some("name"));
        assert_eq!(nearest("nmae", &known), Some("name"));
        assert_eq!(nearest("colour", &known), None);
    }

    #[test]
    fn a_part_of_a_name_is_recognised() {
        let known = ["client_ip", "max", "algorithm"];
        assert_eq!(nearest("ip", &known), Some("client_ip"));
        assert_eq!(nearest("maximum", &known), Some("max"));
        assert_eq!(nearest("algo", &known), Some("algorithm"));
        assert_eq!(nearest("", &known), None);
    }
}
