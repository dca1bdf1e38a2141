//! What must hold of any rule set and any request.

use tollgate::{
    hash::MAX_VALUE,
    request::Attributes,
    rules::{LimitAction, Rule, RuleSet, matcher::Params},
};

/// The time at which limits are tried, in microseconds since the epoch.
pub const NOW: u64 = 1_700_000_000_000_000;

/// Every rule that matches is found through the index, and no other; its keys, costs and limits can be used.
pub fn matching(set: &RuleSet, request: &Attributes<'_>) {
    let found: Vec<usize> = set.matching(request).map(|(number, ..)| number).collect();
    let tried: Vec<usize> = (0..set.rules.len())
        .filter(|number| set.rules[*number].matcher.matches(request).is_some())
        .collect();
    assert_eq!(found, tried, "the index finds what trying every rule finds");
    for rule in &set.rules {
        if let Err(mismatch) = rule.matcher.check(request) {
            assert!(!mismatch.to_string().is_empty());
        }
    }
    for (_, rule, params) in set.matching(request) {
        if let Some(action) = rule.limit_action() {
            keys(set, rule, action, request, &params);
        }
    }
}

/// Keys are graphic ASCII with one hash tag, and no longer than their parts may be.
fn keys(
    set: &RuleSet,
    rule: &Rule,
    action: &LimitAction,
    request: &Attributes<'_>,
    params: &Params<'_>,
) {
    let mut subject = format!("{}{{{}:", set.keys.prefix, rule.name);
    let start = subject.len();
    action
        .descriptor
        .push(&mut subject, request, params, set.key_context());
    let names = action.descriptor.names();
    // Each part is its name, `=`, a value and a comma.
    let longest: usize = names.iter().map(|name| name.len() + MAX_VALUE + 2).sum();
    assert!(subject.len() - start <= longest, "{subject}");
    let (plan, _) = action.plan_for(&subject[start..], request);
    subject.push('}');
    let cost = action.cost.of(request);
    assert!((1..=action.cost.most()).contains(&cost), "{cost}");
    for limit in plan.limits() {
        let key = format!("{subject}{}", limit.key_suffix);
        assert!(key.bytes().all(|byte| byte.is_ascii_graphic()), "{key:?}");
        let braces = (key.matches('{').count(), key.matches('}').count());
        assert_eq!(braces, (1, 1), "one hash tag: {key}");
        let step = limit.at(NOW).step(None, NOW, cost);
        assert_eq!(step.outcome.allowed, cost <= limit.limit.burst(), "{key}");
    }
}
