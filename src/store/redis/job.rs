//! What waits in a lane, and how it is put into calls.

use redis::{Cmd, Pipeline};
use smallvec::{SmallVec, smallvec};
use tokio::{sync::oneshot, time::Instant};

use super::{
    redirect::Undecided,
    replies::{Replies, ScriptReply},
    script::{self, Check},
    shares::Shares,
};

/// What Redis said to a job.
pub(super) type Reply = Result<ScriptReply, Undecided>;

/// What Redis is asked.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// A check, which can share a call with others, and how many times it is asked. The reply is
    /// that to the last of them that is admitted, if any is.
    Check(Check, u32),
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
            Work::Check(check, _) => check.charges(),
            Work::Script(_, charges) => *charges,
        }
    }

    fn check(&self) -> Option<&Check> {
        match &self.work {
            Work::Check(check, _) => Some(check),
            Work::Script(..) => None,
        }
    }

    fn times(&self) -> u32 {
        match self.work {
            Work::Check(_, times) => times,
            Work::Script(..) => 1,
        }
    }
}

/// The most charges in one call, for each check that it may have. Checks of rules with many limits
/// fill a call sooner, so that the time for which it blocks Redis has a bound.
const CHARGES_PER_CHECK: usize = 2;

/// Jobs that one call of a script answers.
pub(super) struct Call {
    pub(super) checks: Vec<Equals>,
    charges: usize,
}

/// Jobs that ask the same; the script is asked once for all of them.
pub(super) type Equals = SmallVec<[Job; 1]>;

impl Call {
    pub(super) fn of(equals: Equals) -> Self {
        Self {
            charges: equals.first().map_or(0, Job::charges),
            checks: vec![equals],
        }
    }

    /// Its jobs, in the order of what is asked.
    pub(super) fn into_jobs(self) -> impl Iterator<Item = Job> {
        self.checks.into_iter().flatten()
    }

    /// Keeps only some jobs; returns whether there are any.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&Job) -> bool) -> bool {
        for equals in &mut self.checks {
            equals.retain(|job| is_wanted(job));
        }
        self.checks.retain(|equals| !equals.is_empty());
        !self.checks.is_empty()
    }

    /// Whether a job can be answered by this call too, of at most `most` checks.
    fn takes(&self, job: &Job, most: usize) -> bool {
        let room = most.saturating_mul(CHARGES_PER_CHECK);
        self.checks.len() < most && self.charges.saturating_add(job.charges()) <= room
    }

    /// Whether this call and a job can be one, as long as there is room.
    fn is_like(&self, job: &Job) -> bool {
        let is_shared = |job: &Job| !job.asking && matches!(job.work, Work::Check(..));
        self.first()
            .is_some_and(|first| first.slot == job.slot && is_shared(first) && is_shared(job))
    }

    /// The jobs that ask the same as `job`, if it can be decided together with them: nothing that
    /// was asked since shares a counter with it.
    fn equals_of(&mut self, job: &Job) -> Option<&mut Equals> {
        let check = job.check().filter(|check| check.is_countable())?;
        let mut checks = self.checks.iter_mut().rev();
        let nearest =
            checks.find(|equals| asked(equals).is_some_and(|asked| asked.shares_keys(check)))?;
        (asked(nearest) == Some(check)).then_some(nearest)
    }

    fn first(&self) -> Option<&Job> {
        self.checks.first()?.first()
    }

    /// Whether a node is asked for keys that are being moved to it.
    pub(super) fn asking(&self) -> bool {
        self.first().is_some_and(|job| job.asking)
    }

    fn cmd(&self) -> Cmd {
        if let Some(Job {
            work: Work::Script(cmd, _),
            ..
        }) = self.first()
        {
            return cmd.clone();
        }
        script::call(self.checks.iter().filter_map(|equals| {
            let check = asked(equals)?;
            Some((check, times(equals)))
        }))
    }
}

/// What equal jobs ask, if they are checks.
fn asked(equals: &[Job]) -> Option<&Check> {
    equals.first()?.check()
}

/// How many equal checks some jobs are, in all.
fn times(equals: &[Job]) -> u32 {
    let times = |sum: u32, job: &Job| sum.saturating_add(job.times());
    equals.iter().fold(0, times)
}

/// Answers equal jobs.
pub(super) fn answer(equals: Equals, replies: &mut Replies) {
    let times = times(&equals);
    let Some(check) = asked(&equals).filter(|_| times > 1) else {
        for job in equals {
            let reply = replies.next(job.charges());
            job.answer(reply.map_err(Undecided::from));
        }
        return;
    };
    match Shares::read(replies, check, times) {
        Ok(mut shares) => {
            for job in equals {
                // There are as many as were asked for.
                if let Some(share) = shares.take(job.times()) {
                    job.answer(Ok(share));
                }
            }
        }
        Err(error) => {
            for job in equals {
                job.answer(Err(error.clone().into()));
            }
        }
    }
}

/// Puts jobs into calls of at most `most` checks, where equal ones count as one. A script reaches
/// one slot. Jobs with the same keys keep their order.
pub(super) fn in_calls(jobs: impl Iterator<Item = Job>, most: usize) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for job in jobs {
        // Of its kind, the last one: those before it are full.
        let Some(call) = calls.iter_mut().rev().find(|call| call.is_like(&job)) else {
            calls.push(Call::of(smallvec![job]));
            continue;
        };
        if most > 1
            && let Some(equals) = call.equals_of(&job)
        {
            equals.push(job);
        } else if call.takes(&job, most) {
            call.charges += job.charges();
            call.checks.push(smallvec![job]);
        } else {
            calls.push(Call::of(smallvec![job]));
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

    fn check(slot: u16, keys: &[usize], group: u32) -> Job {
        let mut batch = Batch::default();
        let limit = Limit::new(Algorithm::FixedWindow, 5, 1_000_000, None).unwrap();
        for n in keys {
            batch.push(limit, 1, group, |key| key.push_str(&n.to_string()));
        }
        let check = Check::new(&batch, batch.charges().iter(), script::Mode::Charge);
        Job {
            work: Work::Check(check, 1),
            slot,
            asking: false,
            deadline: Instant::now() + Duration::from_secs(1),
            reply: oneshot::channel().0,
        }
    }

    /// A check that is equal to no other.
    fn job(slot: u16, charges: usize) -> Job {
        let keys: Vec<usize> = (0..charges).collect();
        check(slot, &keys, ENFORCED + 1)
    }

    /// The slot of each call, and the charges of each of its checks.
    fn calls(jobs: Vec<Job>, most: usize) -> Vec<(u16, Vec<usize>)> {
        let calls = in_calls(jobs.into_iter(), most);
        assert_eq!(
            pipeline(&calls).len(),
            calls.len() + calls.iter().filter(|call| call.asking()).count()
        );
        let calls = calls.into_iter().map(|call| {
            let slot = call.checks[0][0].slot;
            (slot, call.into_jobs().map(|job| job.charges()).collect())
        });
        calls.collect()
    }

    /// How many times each check of the only call is asked, in their order.
    fn times_asked(jobs: Vec<Job>) -> Vec<u32> {
        let calls = in_calls(jobs.into_iter(), 32);
        assert_eq!(calls.len(), 1);
        calls[0].checks.iter().map(|jobs| times(jobs)).collect()
    }

    #[test]
    fn equal_checks_are_asked_as_one_unless_another_comes_between() {
        let a = || check(0, &[1], ENFORCED);
        assert_eq!(times_asked(vec![a(), a(), a()]), [3]);
        let other = || check(0, &[2], ENFORCED);
        assert_eq!(times_asked(vec![a(), other(), a(), other()]), [2, 2]);
        let both = || check(0, &[1, 2], ENFORCED);
        assert_eq!(
            times_asked(vec![a(), both(), a(), both(), a()]),
            [1, 1, 1, 1, 1]
        );
        assert_eq!(times_asked(vec![both(), a(), a(), other()]), [1, 2, 1]);
        assert_eq!(times_asked(vec![job(0, 1), job(0, 1)]), [1, 1], "shadow");
        let ahead = |times| Job {
            work: Work::Check(a().check().unwrap().clone(), times),
            ..a()
        };
        assert_eq!(times_asked(vec![a(), ahead(7), a()]), [9]);
        assert_eq!(calls(vec![a(), a()], 1), [(0, vec![1]), (0, vec![1])]);
        assert_eq!(
            calls(vec![check(1, &[1], ENFORCED), a(), a()], 2),
            [(1, vec![1]), (0, vec![1, 1])]
        );
        assert_eq!(
            calls(vec![a(), other(), a(), a(), a()], 2),
            [(0, vec![1, 1, 1, 1, 1])],
            "equal ones need no room"
        );
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
