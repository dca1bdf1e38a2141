//! Patterns of file names: `*` is any text, `?` any one character, within one name.

/// Whether a text is a pattern, not the name of one file.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether a pattern matches a whole name. Names that begin with a dot are hidden: no pattern
/// matches them.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') {
        return false;
    }
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut read) = (0, 0);
    // Where to go on if the rest does not match: after the last `*`, which then takes one more
    // character.
    let mut retry = None;
    loop {
        match pattern.get(at) {
            Some('*') => {
                at += 1;
                retry = Some((at, read));
            }
            None if read == name.len() => return true,
            Some(c) if read < name.len() && (*c == '?' || *c == name[read]) => {
                at += 1;
                read += 1;
            }
            _ => match retry {
                Some((after, taken)) if taken < name.len() => {
                    at = after;
                    read = taken + 1;
                    retry = Some((after, read));
                }
                _ => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name) in [
            ("*.yaml", "a.yaml"),
            ("*", "a"),
            ("*.yaml", "a.b.yaml"),
            ("team-?.yaml", "team-é.yaml"),
            ("a*b*c", "abbxbc"),
            ("a*", "a"),
            ("**", "a"),
            ("[a].yaml", "[a].yaml"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.yaml", "a.yml"),
            ("*.yaml", "a.yaml~"),
            ("*.yaml", ".yaml"),
            ("*", "..data"),
            (".*", ".hidden"),
            ("?", ""),
            ("a?", "a"),
            ("a*b", "abc"),
            ("[ab].yaml", "a.yaml"),
            ("", "a"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let (pattern, name) = ("a*".repeat(100) + "b", "a".repeat(250));
        assert!(!matches(&pattern, &name));
    }
}
