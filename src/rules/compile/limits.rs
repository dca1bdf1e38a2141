//! `limit` and `limits`: from the model to limits with names.

use std::collections::HashMap;

use super::{Compiler, given};
use crate::{
    limit::{
        Algorithm, InvalidLimit, Limit,
        calendar::{Calendar, Period},
    },
    rules::{
        NamedLimit, Plan,
        decode::Field,
        file::{LimitFields, LimitSpec, Rate},
        quota::{Quota, Window, check_amount, window_label},
        yaml::{Path, Step},
    },
};

/// How limits count that do not say so themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counting {
    /// What the rule says.
    pub(super) explicit: Option<Algorithm>,
    /// What `defaults` say.
    pub(super) default: Option<Algorithm>,
}

/// One limit on its way.
struct Draft {
    limit: Limit,
    calendar: Option<Calendar>,
    text: String,
}

impl Draft {
    /// What its window is called in names.
    fn label(&self) -> String {
        match &self.calendar {
            Some(calendar) => calendar.period().name().to_owned(),
            None => window_label(self.limit.window_us()),
        }
    }

    /// How its keys end. Two limits with the same end would share a counter.
    fn key_suffix(&self) -> String {
        let zone = self
            .calendar
            .as_ref()
            .map_or_else(String::new, |calendar| format!("@{}", calendar.timezone()));
        format!(":{}:{}{zone}", self.limit.algorithm(), self.label())
    }
}

enum Spec {
    Limit(Draft),
    Unlimited,
    Nothing,
}

/// `limit` and `limits`, as a rule, a tier or an override has them.
pub(super) type Given<'a> = (
    Option<&'a Field<LimitSpec>>,
    Option<&'a Field<Vec<Field<LimitSpec>>>>,
);

impl Compiler<'_, '_> {
    /// What `limit` or `limits` allow. `name` is the beginning of the limits' names, `path` where both are missed.
    pub(super) fn plan(
        &mut self,
        limits: Given<'_>,
        path: &Path,
        name: &str,
        counting: Counting,
    ) -> Option<Plan> {
        let fields = match limits {
            (Some(one), None) => std::slice::from_ref(one),
            (None, Some(many)) => {
                let fields = many.value.as_deref()?;
                if fields.is_empty() {
                    self.problem(many, "the list of limits is empty", "add a limit like 5/m");
                    return None;
                }
                fields
            }
            (None, None) => {
                let told = ["limit", "limits"].iter().any(|name| {
                    let field = path.child(Step::Key((*name).to_owned()));
                    self.findings.misspelt(path, name) || self.findings.troubled(&field)
                });
                if told {
                    return None;
                }
                self.document.problem(
                    path,
                    "there is no limit",
                    "add `limit: 5/m`; for everything, `limit: unlimited`; for nothing, `limit: 0`",
                );
                return None;
            }
            (Some(one), Some(_)) => {
                self.problem(
                    one,
                    "there are both `limit` and `limits`",
                    "put all of them into `limits`",
                );
                return None;
            }
        };
        let mut drafts: Vec<Draft> = Vec::new();
        for field in fields {
            match self.limit(field, counting) {
                None => {}
                Some(Spec::Limit(draft)) => {
                    self.check_twin(field, &draft, &drafts);
                    drafts.push(draft);
                }
                Some(_) if fields.len() > 1 => self.problem(
                    field,
                    "`unlimited` and `0` stand alone",
                    "remove the other limits, or this one",
                ),
                Some(Spec::Unlimited) => return Some(Plan::Unlimited),
                Some(Spec::Nothing) => return Some(Plan::Nothing),
            }
        }
        Some(Plan::Limits(named(name, drafts)))
    }

    fn check_twin(&mut self, field: &Field<LimitSpec>, draft: &Draft, others: &[Draft]) {
        let suffix = draft.key_suffix();
        if let Some(twin) = others.iter().find(|other| other.key_suffix() == suffix) {
            self.problem(
                field,
                format!(
                    "{} and {} count the same window in the same way, and would share a counter",
                    draft.text, twin.text
                ),
                "keep one; for a token bucket beside another, write one of them with another period, like 600/m for 10/s",
            );
        }
    }

    fn limit(&mut self, field: &Field<LimitSpec>, counting: Counting) -> Option<Spec> {
        match field.value.as_ref()? {
            LimitSpec::Rate(rate) => match rate {
                Rate::Unlimited => Some(Spec::Unlimited),
                Rate::Nothing => Some(Spec::Nothing),
                Rate::Quota(quota, text) => self.draft(field, *quota, text.clone(), counting, None),
            },
            LimitSpec::Fields(fields) => self.limit_fields(field, fields, counting),
        }
    }

    fn limit_fields(
        &mut self,
        field: &Field<LimitSpec>,
        fields: &LimitFields,
        counting: Counting,
    ) -> Option<Spec> {
        let Some(rate) = &fields.rate else {
            if !self.troubled(field) {
                self.problem(field, "the limit has no rate", "add `rate: 5/m`");
            }
            return None;
        };
        let (mut quota, mut text) = match rate.value.as_ref()? {
            Rate::Quota(quota, text) => (*quota, text.clone()),
            Rate::Unlimited => {
                self.refuse_details(fields, "unlimited");
                return Some(Spec::Unlimited);
            }
            Rate::Nothing => {
                self.refuse_details(fields, "0");
                return Some(Spec::Nothing);
            }
        };
        if let Some(field) = &fields.burst {
            let burst = field.value?;
            if quota.burst.is_some() {
                self.problem(field, "the burst is written twice", "remove one");
                return None;
            }
            if let Err(error) = check_amount(burst, "burst") {
                self.problem(field, error.message, &error.hint);
                return None;
            }
            quota.burst = Some(burst);
            text = format!("{text} burst {burst}");
        }
        let calendar = self.calendar(fields, quota)?;
        let own = given(fields.algorithm.as_ref()).map(|name| (*name).into());
        let counting = Counting {
            explicit: own.or(counting.explicit),
            ..counting
        };
        self.draft(field, quota, text, counting, calendar)
    }

    /// `unlimited` and `0` count nothing, so nothing can be said of how they count.
    fn refuse_details(&mut self, fields: &LimitFields, rate: &str) {
        let paths = [
            fields.burst.as_ref().map(|field| self.findings.path(field)),
            fields
                .algorithm
                .as_ref()
                .map(|field| self.findings.path(field)),
            fields.align.as_ref().map(|field| self.findings.path(field)),
            fields
                .timezone
                .as_ref()
                .map(|field| self.findings.path(field)),
        ];
        for path in paths.into_iter().flatten() {
            self.document.problem(
                &path,
                format!("a limit of `{rate}` counts nothing"),
                "remove this field, or write a rate like 5/m",
            );
        }
    }

    /// The calendar of a limit that has one; the outer `None` is an error, which has been reported.
    #[expect(clippy::option_option, reason = "wrong and none are two things")]
    fn calendar(&mut self, fields: &LimitFields, quota: Quota) -> Option<Option<Calendar>> {
        let Some(align) = &fields.align else {
            if let Some(field) = &fields.timezone {
                self.problem(
                    field,
                    "only a calendar has a time zone",
                    "add `align: calendar`, or remove the time zone",
                );
                return None;
            }
            return Some(None);
        };
        let (_, rate) = (align.value?, fields.rate.as_ref()?);
        let period = match quota.window {
            Window::Month => Period::Month,
            Window::Micros(3_600_000_000) => Period::Hour,
            Window::Micros(86_400_000_000) => Period::Day,
            Window::Micros(604_800_000_000) => Period::Week,
            Window::Micros(_) => {
                self.problem(
                    rate,
                    "the calendar has no such window",
                    "with `align: calendar` write a rate per hour, day, week or month",
                );
                return None;
            }
        };
        let zone = match &fields.timezone {
            Some(field) => field.value.as_deref()?,
            None => "UTC",
        };
        match Calendar::new(period, zone) {
            Ok(calendar) => Some(Some(calendar)),
            Err(error) => {
                if let Some(field) = &fields.timezone {
                    self.problem(
                        field,
                        error.to_string(),
                        "write a name of the IANA time zone database, like Europe/Paris or UTC",
                    );
                }
                None
            }
        }
    }

    fn draft(
        &mut self,
        field: &Field<LimitSpec>,
        quota: Quota,
        text: String,
        counting: Counting,
        calendar: Option<Calendar>,
    ) -> Option<Spec> {
        let algorithm = self.algorithm(field, quota, counting, calendar.is_some())?;
        let window_us = match (&calendar, quota.window) {
            (Some(calendar), _) => calendar.period().usual_us(),
            (None, Window::Micros(micros)) => micros,
            (None, Window::Month) => {
                self.problem(
                    field,
                    "a month has no fixed length",
                    "write { rate: 1000/month, align: calendar }, or days, like 1000/30days",
                );
                return None;
            }
        };
        match Limit::new(algorithm, quota.amount, window_us, quota.burst) {
            Ok(limit) => Some(Spec::Limit(Draft {
                limit,
                calendar,
                text,
            })),
            Err(error) => {
                let hint = match error {
                    InvalidLimit::Refill => "lower the burst, or raise the rate",
                    InvalidLimit::Log => "use sliding_window, which counts, or a shorter window",
                    InvalidLimit::Amount | InvalidLimit::Window => "for example 5/m",
                };
                self.problem(field, error.to_string(), hint);
                None
            }
        }
    }

    /// Only a bucket has a burst, and only a fixed window a calendar: writing one is asking for the algorithm, unless another
    /// one was asked for.
    fn algorithm(
        &mut self,
        field: &Field<LimitSpec>,
        quota: Quota,
        counting: Counting,
        aligned: bool,
    ) -> Option<Algorithm> {
        let implied = match (quota.burst, aligned) {
            (Some(_), true) => {
                self.problem(
                    field,
                    "a limit that follows the calendar has no burst",
                    "write two limits, one with the burst and one with the calendar",
                );
                return None;
            }
            (Some(_), false) => Some((Algorithm::TokenBucket, "has no burst", "the burst")),
            (None, true) => Some((
                Algorithm::FixedWindow,
                "does not follow the calendar",
                "`align`",
            )),
            (None, false) => None,
        };
        match (implied, counting.explicit) {
            (Some((implied, lacks, what)), Some(other)) if implied != other => {
                self.problem(
                    field,
                    format!("{other} {lacks}"),
                    &format!("remove {what}, or write `algorithm: {implied}`"),
                );
                None
            }
            (Some((implied, ..)), _) => Some(implied),
            (None, explicit) => Some(
                explicit
                    .or(counting.default)
                    .unwrap_or(Algorithm::SlidingWindow),
            ),
        }
    }
}

/// Names, policies and key endings.
fn named(name: &str, drafts: Vec<Draft>) -> Vec<NamedLimit> {
    let mut labels: HashMap<String, usize> = HashMap::new();
    for draft in &drafts {
        *labels.entry(draft.label()).or_default() += 1;
    }
    let single = drafts.len() == 1;
    drafts
        .into_iter()
        .map(|draft| {
            let label = draft.label();
            let limit = draft.limit;
            let name = match labels.get(&label) {
                _ if single => name.to_owned(),
                Some(1) => format!("{name}/{label}"),
                _ => format!("{name}/{label}/{}", limit.algorithm()),
            };
            // `w` counts whole seconds; of a window that is none, or that the calendar stretches, it would misstate the rate.
            let window = if draft.calendar.is_none() && limit.window_us().is_multiple_of(1_000_000)
            {
                format!(";w={}", limit.window_us() / 1_000_000)
            } else {
                String::new()
            };
            NamedLimit {
                policy: format!("\"{name}\";q={}{window}", limit.amount()).into(),
                name: name.into(),
                key_suffix: draft.key_suffix().into(),
                text: draft.text.into(),
                limit,
                calendar: draft.calendar,
            }
        })
        .collect()
}
