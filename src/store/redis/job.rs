//! What waits in a lane, and how it is put into calls.

use redis::{Cmd, Pipeline};
use tokio::{sync::oneshot, time::Instant};

use super::{
    redirect::Undecided,
    script::{self, Check, ScriptReply},
};

/// What Redis said to a job.
pub(super) type Reply = Result<ScriptReply, Undecided>;

/// What Redis is asked.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// A check, which can share a call with others.
    Check(Check),
    /// Another script, and how many charges its reply decides about.
    Script(Cmd, usize),
}

/// Something that Redis is asked, on its way there.
pub(super) struct Job {
    pub(super) work: Work,
    /// The slot of its keys in a cluster; without one, all are in slot 0.
    pub(super) slot: u16,
    /// Whether a node of a cluster is asked for keys that are being moved to it.
    pub(super) asking: bool,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Reply>,
}

impl Job {
    pub(super) fn answer(self, result: Reply) {
        // The receiver may be gone: its deadline passed, or the proxy closed the connection.
        let _ = self.reply.send(result);
    }

    /// Whether it is past its deadline, or its receiver is gone: the request has been answered
    /// without us and must not be charged.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        self.deadline <= now || self.reply.is_closed()
    }

    /// How many charges the reply decides about.
    pub(super) fn charges(&self) -> usize {
        match &self.work {
            Work::Check(check) => check.charges(),
            Work::Script(_, charges) => *charges,
        }
    }
}

/// The most charges in one call, for each check that it may have. Checks of rules with many limits
/// fill a call sooner, so that the time for which it blocks Redis has a bound.
const CHARGES_PER_CHECK: usize = 2;

/// Jobs that one call of a script answers.
pub(super) struct Call {
    pub(super) jobs: Vec<Job>,
    charges: usize,
}

impl Call {
    pub(super) fn of(job: Job) -> Self {
        Self {
            charges: job.charges(),
            jobs: vec![job],
        }
    }

    /// Whether a job can be answered by this call too, of at most `most` checks.
    fn takes(&self, job: &Job, most: usize) -> bool {
        let room = most.saturating_mul(CHARGES_PER_CHECK);
        self.jobs.len() < most && self.charges.saturating_add(job.charges()) <= room
    }

    /// Whether this call and a job can be one, as long as there is room.
    fn is_like(&self, job: &Job) -> bool {
        let is_shared = |job: &Job| !job.asking && matches!(job.work, Work::Check(_));
        self.jobs
            .first()
            .is_some_and(|first| first.slot == job.slot && is_shared(first) && is_shared(job))
    }

    /// Whether a node is asked for keys that are being moved to it.
    pub(super) fn asking(&self) -> bool {
        self.jobs.iter().any(|job| job.asking)
    }

    fn cmd(&self) -> Cmd {
        match &self.jobs[..] {
            [
                Job {
                    work: Work::Script(cmd, _),
                    ..
                },
            ] => cmd.clone(),
            jobs => script::call(jobs.iter().filter_map(|job| match &job.work {
                Work::Check(check) => Some(check),
                Work::Script(..) => None,
            })),
        }
    }
}

/// Puts jobs into calls of at most `most` checks. A script reaches one slot. Jobs with the same
/// keys keep their order.
pub(super) fn in_calls(jobs: impl Iterator<Item = Job>, most: usize) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for job in jobs {
        // Of its kind, the last one: those before it are full.
        match calls.iter_mut().rev().find(|call| call.is_like(&job)) {
            Some(call) if call.takes(&job, most) => {
                call.charges += job.charges();
                call.jobs.push(job);
            }
            _ => calls.push(Call::of(job)),
        }
    }
    calls
}

/// The commands of some calls.
pub(super) fn pipeline(calls: &[Call]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(calls.len());
    for call in calls {
        if call.asking() {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(call.cmd());
    }
    pipeline
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        limit::{Algorithm, Limit},
        store::{Batch, ENFORCED},
    };

    fn job(slot: u16, charges: usize) -> Job {
        let mut batch = Batch::default();
        let limit = Limit::new(Algorithm::FixedWindow, 5, 1_000_000, None).unwrap();
        for n in 0..charges {
            batch.push(limit, 1, ENFORCED, |key| key.push_str(&n.to_string()));
        }
        let check = Check::new(&batch, batch.charges().iter(), script::Mode::Charge);
        Job {
            work: Work::Check(check),
            slot,
            asking: false,
            deadline: Instant::now() + Duration::from_secs(1),
            reply: oneshot::channel().0,
        }
    }

    /// The slot of each call, and the charges of each of its checks.
    fn calls(jobs: Vec<Job>, most: usize) -> Vec<(u16, Vec<usize>)> {
        let calls = in_calls(jobs.into_iter(), most);
        assert_eq!(
            pipeline(&calls).len(),
            calls.len() + calls.iter().filter(|call| call.asking()).count()
        );
        calls
            .iter()
            .map(|call| {
                let charges = call.jobs.iter().map(Job::charges);
                (call.jobs[0].slot, charges.collect())
            })
            .collect()
    }

    #[test]
    fn a_call_has_one_slot_and_a_bound_and_keeps_the_order() {
        let mut asking = job(7, 1);
        asking.asking = true;
        let jobs = vec![
            job(7, 1),
            job(8, 2),
            asking,
            job(7, 3),
            job(7, 5),
            job(8, 1),
        ];
        assert_eq!(
            calls(jobs, 3),
            [(7, vec![1, 3]), (8, vec![2, 1]), (7, vec![1]), (7, vec![5])]
        );
        let jobs = vec![job(0, 1), job(0, 1), job(0, 1), job(0, 9)];
        assert_eq!(
            calls(jobs, 2),
            [(0, vec![1, 1]), (0, vec![1]), (0, vec![9])]
        );
        let each = calls(vec![job(0, 1), job(0, 1)], 1);
        assert_eq!(each, [(0, vec![1]), (0, vec![1])]);
        assert_eq!(
            calls(vec![job(0, 5), job(0, 5)], 1).len(),
            2,
            "a check with more than its share is a call of its own"
        );
    }
}
