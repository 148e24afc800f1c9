//! What an IKE SA still has to do. One request is outstanding at a time (RFC 7296 2.3), so the rest
//! waits here.

use std::collections::VecDeque;

use crate::event::ChildId;
use crate::host::Time;
use crate::verdict::Reason;
use crate::wire::KeGroup;

/// Tasks that may wait in one IKE SA.
pub(crate) const MAX_TASKS: usize = 256;

/// Something that takes a request to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// Be established.
    Establish,
    /// A new child of this configuration.
    NewChild { name: String },
    /// Replace the pair with this inbound SPI.
    RekeyChild { child: ChildId, spi: u32 },
    /// Replace the IKE SA.
    RekeyIke,
    /// Delete the pairs with these inbound SPIs.
    DeletePairs { spis: Vec<u32> },
    /// Delete a child with all its pairs.
    DeleteChild { child: ChildId },
    /// Delete the IKE SA.
    DeleteIke,
    /// The responder's AUTH or identity is wrong: say so and delete (RFC 7296 2.21.2).
    Refuse { reason: Reason },
    /// Ask whether the peer lives.
    Liveness,
}

impl TaskKind {
    /// It concerns a child, so it moves with the children to a rekeyed IKE SA.
    pub(crate) const fn is_for_child(&self) -> bool {
        match self {
            Self::NewChild { .. }
            | Self::RekeyChild { .. }
            | Self::DeletePairs { .. }
            | Self::DeleteChild { .. } => true,
            Self::Establish
            | Self::RekeyIke
            | Self::DeleteIke
            | Self::Refuse { .. }
            | Self::Liveness => false,
        }
    }

    /// Goes before what waits: the end of the IKE SA.
    const fn is_urgent(&self) -> bool {
        matches!(self, Self::DeleteIke | Self::Refuse { .. })
    }
}

/// A task with who waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) kind: TaskKind,
    /// Commands to answer when it is done.
    pub(crate) requests: Vec<u64>,
    /// Not before this time, after a TEMPORARY_FAILURE.
    pub(crate) not_before: Time,
    /// Times it was refused for the time being.
    pub(crate) refused: u32,
    /// Key exchange method to use: the peer asked for it by INVALID_KE_PAYLOAD.
    pub(crate) group: Option<KeGroup>,
    /// Times the peer asked for another method.
    pub(crate) regrouped: u32,
}

impl Task {
    pub(crate) fn new(kind: TaskKind, request: Option<u64>) -> Self {
        let requests = request.into_iter().collect();
        Self {
            kind,
            requests,
            not_before: Time(0),
            refused: 0,
            group: None,
            regrouped: 0,
        }
    }
}

/// The queue of one IKE SA.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    queue: VecDeque<Task>,
}

impl Tasks {
    /// Adds a task, or its requests to the same task if it waits already.
    ///
    /// # Errors
    /// The task, if the queue is full.
    pub(crate) fn push(&mut self, task: Task) -> Result<(), Task> {
        if let Some(same) = self
            .queue
            .iter_mut()
            .find(|waiting| waiting.kind == task.kind)
        {
            same.requests.extend(task.requests);
            return Ok(());
        }
        if self.queue.len() >= MAX_TASKS && !task.kind.is_urgent() {
            return Err(task);
        }
        if task.kind.is_urgent() {
            self.queue.push_front(task);
        } else {
            self.queue.push_back(task);
        }
        Ok(())
    }

    /// Takes the first task that may start now.
    pub(crate) fn take_ready(&mut self, now: Time) -> Option<Task> {
        let ready = self.queue.iter().position(|task| task.not_before <= now)?;
        self.queue.remove(ready)
    }

    /// When the next task may start.
    pub(crate) fn next(&self) -> Option<Time> {
        self.queue.iter().map(|task| task.not_before).min()
    }

    /// Takes the first task that `which` names.
    pub(crate) fn take(&mut self, which: impl Fn(&TaskKind) -> bool) -> Option<Task> {
        let found = self.queue.iter().position(|task| which(&task.kind))?;
        self.queue.remove(found)
    }

    pub(crate) fn has(&self, which: impl Fn(&TaskKind) -> bool) -> bool {
        self.queue.iter().any(|task| which(&task.kind))
    }

    /// Takes all.
    pub(crate) fn drain(&mut self) -> VecDeque<Task> {
        std::mem::take(&mut self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(name: &str) -> TaskKind {
        TaskKind::NewChild {
            name: name.to_owned(),
        }
    }

    #[test]
    fn the_same_task_is_done_once_for_all_who_ask() {
        let mut tasks = Tasks::default();
        tasks.push(Task::new(child("net"), Some(1))).unwrap();
        tasks.push(Task::new(child("net"), Some(2))).unwrap();
        assert_eq!(tasks.take_ready(Time(0)).unwrap().requests, vec![1, 2]);
        assert_eq!(tasks.take_ready(Time(0)), None);
    }

    #[test]
    fn a_task_that_waits_lets_others_pass() {
        let mut tasks = Tasks::default();
        let late = Task {
            not_before: Time(9),
            ..Task::new(TaskKind::RekeyIke, None)
        };
        tasks.push(late).unwrap();
        tasks.push(Task::new(TaskKind::Liveness, None)).unwrap();
        assert_eq!(tasks.take_ready(Time(0)).unwrap().kind, TaskKind::Liveness);
        assert_eq!(tasks.take_ready(Time(8)), None);
        assert_eq!(tasks.next(), Some(Time(9)));
        assert_eq!(tasks.take_ready(Time(9)).unwrap().kind, TaskKind::RekeyIke);
    }

    #[test]
    fn a_full_queue_still_takes_the_end() {
        let mut tasks = Tasks::default();
        for number in 0..MAX_TASKS {
            tasks
                .push(Task::new(child(&number.to_string()), None))
                .unwrap();
        }
        assert!(tasks.push(Task::new(TaskKind::Liveness, None)).is_err());
        assert!(tasks.push(Task::new(TaskKind::DeleteIke, None)).is_ok());
        assert_eq!(tasks.take_ready(Time(0)).unwrap().kind, TaskKind::DeleteIke);
    }
}
