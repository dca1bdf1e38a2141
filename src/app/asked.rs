//! What the admin port asks the engine.

use std::sync::Arc;

use super::shown;
use crate::{
    contract::AnswerOptions,
    engine::Engine,
    explain::{Counters, Question, Report},
    server::admin::{Ask, Explains},
};

/// Answers by the rules in force.
pub(super) struct Asked {
    pub(super) engine: Arc<Engine>,
    /// The store's name.
    pub(super) store: &'static str,
    pub(super) answers: AnswerOptions,
}

impl Ask for Asked {
    fn rules(&self) -> String {
        shown::rules(&self.engine.live()).to_string() + "\n"
    }

    fn explain<'a>(&'a self, question: &'a [u8], as_text: bool) -> Explains<'a> {
        Box::pin(async move {
            let question: Question = serde_json::from_slice(question).map_err(|error| {
                format!(
                    "this is not a question: {error}\nhint: {{\"method\":\"GET\",\"path\":\"/v1/items?page=2\",\"host\":\"api.example.com\",\"ip\":\"203.0.113.7\",\"headers\":{{\"x-api-key\":\"k\"}}}}"
                )
            })?;
            let asked = question.checked().map_err(|error| error.to_string())?;
            let request = asked.attributes();
            let live = self.engine.live();
            let (explanation, error) = self.engine.explain(&live, &request).await;
            let counters = match error {
                None => Counters::Read(self.store),
                Some(error) => Counters::Failed(error.to_string()),
            };
            let report = Report::new(&request, explanation, counters, self.answers);
            Ok(if as_text {
                report.to_string()
            } else {
                report.to_json()
            })
        })
    }
}
