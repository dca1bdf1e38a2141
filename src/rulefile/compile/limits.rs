//! Compiles `limit` and `limits` into limits with names.

use std::collections::HashMap;

use super::{Compiler, value};
use crate::{
    counter_key::{TRY_SUFFIX, limit_suffix},
    limit::{
        Algorithm, InvalidLimit, Limit,
        calendar::{Calendar, Period},
    },
    rulefile::{
        decode::Field,
        model::{LimitFields, LimitSpec, Per, RateSpec},
        rate::{Rate, Window, check_amount},
        yaml::FieldPath,
    },
    rules::{AmountHeader, NamedLimit, Plan, span::window_label},
};

/// The algorithm of limits that name none themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct AlgorithmChoice {
    /// The rule's `algorithm`.
    pub(super) explicit: Option<Algorithm>,
    /// The `algorithm` in `defaults`.
    pub(super) default: Option<Algorithm>,
}

/// A limit before it has a name.
struct Draft {
    limit: Limit,
    calendar: Option<Calendar>,
    text: String,
    amount_header: Option<AmountHeader>,
    candidate: Option<Box<Self>>,
}

impl Draft {
    /// The window in names: `60s`, `month`.
    fn label(&self) -> String {
        match &self.calendar {
            Some(calendar) => calendar.period().name().to_owned(),
            None => window_label(self.limit.window_us()),
        }
    }

    /// The end of its keys. Two limits with the same end would share a counter.
    fn key_suffix(&self) -> String {
        let timezone = self.calendar.as_ref().map(Calendar::timezone);
        limit_suffix(self.limit.algorithm(), &self.label(), timezone)
    }
}

enum Spec {
    Limit(Draft),
    Unlimited,
    Nothing,
}

/// `limit` and `limits` of a rule, a tier or an override.
pub(super) type Given<'a> = (
    Option<&'a Field<LimitSpec>>,
    Option<&'a Field<Vec<Field<LimitSpec>>>>,
);

impl Compiler<'_, '_> {
    /// The plan in `limit` or `limits`. `name` begins the limits' names; `path` is reported if both
    /// are missing.
    pub(super) fn plan(
        &self,
        limits: Given<'_>,
        path: &FieldPath,
        name: &str,
        choice: AlgorithmChoice,
    ) -> Option<Plan> {
        let fields = match limits {
            (Some(one), None) => std::slice::from_ref(one),
            (None, Some(many)) => {
                let fields = many.value.as_deref()?;
                if fields.is_empty() {
                    self.error(many, "the list of limits is empty", "add a limit like 5/m");
                    return None;
                }
                fields
            }
            (None, None) => {
                let told = ["limit", "limits"].iter().any(|name| {
                    let field = path.key(name);
                    self.problems.has_misspelt(path, name) || self.problems.has_error(&field)
                });
                if told {
                    return None;
                }
                self.problems.error(
                    path,
                    "there is no limit",
                    "add `limit: 5/m`; for everything, `limit: unlimited`; for nothing, `limit: 0`",
                );
                return None;
            }
            (Some(one), Some(_)) => {
                self.error(
                    one,
                    "there are both `limit` and `limits`",
                    "put all of them into `limits`",
                );
                return None;
            }
        };
        let mut drafts: Vec<Draft> = Vec::new();
        for field in fields {
            match self.limit(field, choice) {
                None => {}
                Some(Spec::Limit(draft)) => {
                    self.check_twin(field, &draft, &drafts);
                    drafts.push(draft);
                }
                Some(_) if fields.len() > 1 => self.error(
                    field,
                    "`unlimited` and `0` cannot be combined with other limits",
                    "remove the other limits, or this one",
                ),
                Some(Spec::Unlimited) => return Some(Plan::Unlimited),
                Some(Spec::Nothing) => return Some(Plan::Nothing),
            }
        }
        Some(Plan::Limits(named(name, drafts)))
    }

    fn check_twin(&self, field: &Field<LimitSpec>, draft: &Draft, others: &[Draft]) {
        let suffix = draft.key_suffix();
        if let Some(twin) = others.iter().find(|other| other.key_suffix() == suffix) {
            self.error(
                field,
                format!(
                    "{} and {} count the same window in the same way, and would share a counter",
                    draft.text, twin.text
                ),
                "keep one; for a token bucket beside another, write one of them with another period, like 600/m for 10/s",
            );
        }
    }

    fn limit(&self, field: &Field<LimitSpec>, choice: AlgorithmChoice) -> Option<Spec> {
        match field.value.as_ref()? {
            LimitSpec::Rate(rate) => match rate {
                RateSpec::Unlimited => Some(Spec::Unlimited),
                RateSpec::Nothing => Some(Spec::Nothing),
                RateSpec::Rate(rate, text) => {
                    let draft = self.draft(field, *rate, text.clone(), choice, None);
                    draft.map(Spec::Limit)
                }
            },
            LimitSpec::Fields(fields) => self.limit_fields(field, fields, choice),
        }
    }

    fn limit_fields(
        &self,
        field: &Field<LimitSpec>,
        fields: &LimitFields,
        choice: AlgorithmChoice,
    ) -> Option<Spec> {
        if fields.header.is_some() {
            return self.limit_of_header(field, fields, choice);
        }
        for (name, path) in self.fields_of_header(fields) {
            self.problems.error(
                &path,
                format!("`{name}` belongs to a limit set by a header"),
                "add `header: x-limit`, or remove it",
            );
        }
        let Some(rate) = &fields.rate else {
            if !self.has_error(field) {
                self.error(field, "the limit has no rate", "add `rate: 5/m`");
            }
            return None;
        };
        let (mut rate, mut text) = match rate.value.as_ref()? {
            RateSpec::Rate(rate, text) => (*rate, text.clone()),
            RateSpec::Unlimited => {
                self.refuse_details(fields, "unlimited");
                return Some(Spec::Unlimited);
            }
            RateSpec::Nothing => {
                self.refuse_details(fields, "0");
                return Some(Spec::Nothing);
            }
        };
        if let Some(field) = &fields.burst {
            let burst = field.value?;
            if rate.burst.is_some() {
                self.error(field, "the burst is written twice", "remove one");
                return None;
            }
            if let Err(error) = check_amount(burst, "burst") {
                self.report(field, error);
                return None;
            }
            rate.burst = Some(burst);
            text = format!("{text} burst {burst}");
        }
        let at = fields.rate.as_ref().map(|field| self.path(field));
        let calendar = self.calendar(fields, rate, at)?;
        let own = value(fields.algorithm.as_ref()).copied();
        let choice = AlgorithmChoice {
            explicit: own.or(choice.explicit),
            ..choice
        };
        let mut draft = self.draft(field, rate, text, choice, calendar)?;
        if let Some(field) = &fields.r#try {
            let candidate = self.candidate(field, fields, rate, &draft)?;
            draft.candidate = Some(Box::new(candidate));
        }
        Some(Spec::Limit(draft))
    }

    /// The limit that is tried out beside a limit of `rate`. It counts in the same way, and has the
    /// same burst unless it is written with another.
    fn candidate(
        &self,
        field: &Field<RateSpec>,
        fields: &LimitFields,
        live: Rate,
        draft: &Draft,
    ) -> Option<Draft> {
        let RateSpec::Rate(mut rate, text) = field.value.as_ref()?.clone() else {
            self.error(
                field,
                "only a rate can be tried out",
                "write one like 3/m; to try out a rule, write `mode: shadow`",
            );
            return None;
        };
        rate.burst = rate.burst.or(live.burst);
        let calendar = self.calendar(fields, rate, Some(self.path(field)))?;
        let choice = AlgorithmChoice {
            explicit: Some(draft.limit.algorithm()),
            default: None,
        };
        let candidate = self.draft(field, rate, text, choice, calendar)?;
        let is_same_window = candidate.label() == draft.label();
        if is_same_window
            && candidate.limit.amount() >= draft.limit.amount()
            && candidate.limit.burst() >= draft.limit.burst()
        {
            self.problems.warning(
                &self.path(field),
                format!(
                    "a limit of {} would deny nothing that {} admits",
                    candidate.text, draft.text
                ),
                "try out a lower one; what would happen with a higher one, nobody knows before",
            );
        }
        Some(candidate)
    }

    /// The fields that only a limit set by a header has, as far as they are written.
    fn fields_of_header(&self, fields: &LimitFields) -> Vec<(&'static str, FieldPath)> {
        let default = self.path_of(fields.default.as_ref());
        let max = self.path_of(fields.max.as_ref());
        let per = self.path_of(fields.per.as_ref());
        [("default", default), ("max", max), ("per", per)]
            .into_iter()
            .filter_map(|(name, path)| Some((name, path?)))
            .collect()
    }

    /// A limit whose amount is set by a header.
    fn limit_of_header(
        &self,
        field: &Field<LimitSpec>,
        fields: &LimitFields,
        choice: AlgorithmChoice,
    ) -> Option<Spec> {
        for (name, path) in [
            ("rate", self.path_of(fields.rate.as_ref())),
            ("burst", self.path_of(fields.burst.as_ref())),
        ] {
            if let Some(path) = path {
                self.problems.error(
                    &path,
                    format!("a limit set by a header has no `{name}`"),
                    "keep `header`, `default`, `max` and `per`, or write a `rate` instead",
                );
                return None;
            }
        }
        let (Some(header), Some(default), Some(max), Some(per)) =
            (&fields.header, &fields.default, &fields.max, &fields.per)
        else {
            if !self.has_error(field) {
                self.error(
                    field,
                    "a limit set by a header also needs `default`, `max` and `per`",
                    "write { header: x-limit, default: 60, max: 6000, per: 1m }",
                );
            }
            return None;
        };
        let name = self.header_name(header, "x-limit")?;
        for (field, what) in [(default, "default"), (max, "maximum")] {
            if let Err(error) = check_amount(field.value?, what) {
                self.report(field, error);
                return None;
            }
        }
        let (amount, most, Per(window, text)) = (default.value?, max.value?, per.value.as_ref()?);
        if amount > most {
            self.error(
                max,
                format!("the maximum {most} is below the default {amount}"),
                "raise it, or lower the default",
            );
            return None;
        }
        let rate = Rate {
            amount,
            window: *window,
            burst: None,
        };
        let calendar = self.calendar(fields, rate, Some(self.path(per)))?;
        let own = value(fields.algorithm.as_ref()).copied();
        let choice = AlgorithmChoice {
            explicit: own.or(choice.explicit),
            ..choice
        };
        // What holds for the largest amount holds for all.
        let largest = Rate {
            amount: most,
            ..rate
        };
        if let Some(candidate) = &fields.r#try {
            self.error(
                candidate,
                "a limit set by a header has no `try`",
                "try another `max` with a rule in shadow mode",
            );
            return None;
        }
        let draft = self.draft(field, largest, format!("{amount}/{text}"), choice, calendar)?;
        let mut draft = draft;
        draft.limit = draft.limit.with_amount(amount);
        draft.amount_header = Some(AmountHeader {
            name,
            max: most,
            per: text.as_str().into(),
        });
        Some(Spec::Limit(draft))
    }

    /// Reports the details of a limit of `unlimited` or `0`, which counts nothing.
    fn refuse_details(&self, fields: &LimitFields, written: &str) {
        let LimitFields {
            rate: _,
            header: _,
            default: _,
            max: _,
            per: _,
            burst,
            algorithm,
            align,
            timezone,
            r#try,
        } = fields;
        let details = [
            self.path_of(burst.as_ref()),
            self.path_of(algorithm.as_ref()),
            self.path_of(align.as_ref()),
            self.path_of(timezone.as_ref()),
            self.path_of(r#try.as_ref()),
        ];
        for path in details.into_iter().flatten() {
            self.problems.error(
                &path,
                format!("a limit of `{written}` has no counter"),
                "remove this field, or write a rate like 5/m",
            );
        }
    }

    /// The limit's calendar, if it has one. The outer `None` is an error, which has been reported.
    #[expect(clippy::option_option, reason = "wrong and none are two things")]
    fn calendar(
        &self,
        fields: &LimitFields,
        rate: Rate,
        at: Option<FieldPath>,
    ) -> Option<Option<Calendar>> {
        let Some(align) = &fields.align else {
            if let Some(field) = &fields.timezone {
                self.error(
                    field,
                    "only a calendar has a time zone",
                    "add `align: calendar`, or remove the time zone",
                );
                return None;
            }
            return Some(None);
        };
        let (_, at) = (align.value?, at?);
        let period = match rate.window {
            Window::Month => Period::Month,
            Window::Micros(3_600_000_000) => Period::Hour,
            Window::Micros(86_400_000_000) => Period::Day,
            Window::Micros(604_800_000_000) => Period::Week,
            Window::Micros(_) => {
                self.problems.error(
                    &at,
                    "this window does not exist in the calendar",
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
                    self.error(
                        field,
                        error.to_string(),
                        "write a name of the IANA time zone database, like Europe/Paris or UTC",
                    );
                }
                None
            }
        }
    }

    fn draft<T>(
        &self,
        field: &Field<T>,
        rate: Rate,
        text: String,
        choice: AlgorithmChoice,
        calendar: Option<Calendar>,
    ) -> Option<Draft> {
        let algorithm = self.algorithm(field, rate, choice, calendar.is_some())?;
        let window_us = match (&calendar, rate.window) {
            (Some(calendar), _) => calendar.period().usual_us(),
            (None, Window::Micros(micros)) => micros,
            (None, Window::Month) => {
                self.error(
                    field,
                    "a month has no fixed length",
                    "write { rate: 1000/month, align: calendar }, or days, like 1000/30days",
                );
                return None;
            }
        };
        match Limit::new(algorithm, rate.amount, window_us, rate.burst) {
            Ok(limit) => Some(Draft {
                limit,
                calendar,
                text,
                amount_header: None,
                candidate: None,
            }),
            Err(error) => {
                let hint = match error {
                    InvalidLimit::Refill => "lower the burst, or raise the rate",
                    InvalidLimit::Log => "use sliding_window, which counts, or a shorter window",
                    InvalidLimit::Amount | InvalidLimit::Window => "for example 5/m",
                };
                self.error(field, error.to_string(), hint);
                None
            }
        }
    }

    /// The algorithm of a limit: its own, else the one that its burst or calendar needs, else the
    /// default.
    fn algorithm<T>(
        &self,
        field: &Field<T>,
        rate: Rate,
        choice: AlgorithmChoice,
        aligned: bool,
    ) -> Option<Algorithm> {
        // The usual algorithm for a burst or calendar, which others will do, what the rest lacks,
        // and the field to blame.
        type Need = (Algorithm, fn(Algorithm) -> bool, &'static str, &'static str);
        let need: Need = match (rate.burst, aligned) {
            (Some(_), true) => {
                self.error(
                    field,
                    "a limit that follows the calendar has no burst",
                    "write two limits, one with the burst and one with the calendar",
                );
                return None;
            }
            (Some(_), false) => (
                Algorithm::TokenBucket,
                Algorithm::has_burst,
                "has no burst",
                "the burst",
            ),
            (None, true) => (
                Algorithm::FixedWindow,
                Algorithm::follows_calendar,
                "does not follow the calendar",
                "`align`",
            ),
            (None, false) => {
                let default = choice.default.unwrap_or(Algorithm::SlidingWindow);
                return Some(choice.explicit.unwrap_or(default));
            }
        };
        let (usual, fits, lacks, what) = need;
        match choice.explicit {
            None => Some(usual),
            Some(explicit) if fits(explicit) => Some(explicit),
            Some(explicit) => {
                self.error(
                    field,
                    format!("{explicit} {lacks}"),
                    format!("remove {what}, or write `algorithm: {usual}`"),
                );
                None
            }
        }
    }
}

/// Adds names, policies and key endings.
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
            let name = match labels.get(&label) {
                _ if single => name.to_owned(),
                Some(1) => format!("{name}/{label}"),
                _ => format!("{name}/{label}/{}", draft.limit.algorithm()),
            };
            with_name(&name, draft)
        })
        .collect()
}

fn with_name(name: &str, draft: Draft) -> NamedLimit {
    let key_suffix = draft.key_suffix();
    let candidate = draft.candidate.map(|candidate| {
        let candidate = with_name(name, *candidate);
        Box::new(NamedLimit {
            key_suffix: format!("{}{TRY_SUFFIX}", candidate.key_suffix).into(),
            ..candidate
        })
    });
    NamedLimit {
        policy: NamedLimit::policy_of(name, &draft.limit, draft.calendar.as_ref()),
        name: name.into(),
        key_suffix: key_suffix.into(),
        text: draft.text.into(),
        limit: draft.limit,
        calendar: draft.calendar,
        amount_header: draft.amount_header,
        candidate,
    }
}
