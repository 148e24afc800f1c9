//! Objects of the dataplane's own configuration: IKE may read them and nothing else.

use api::id::{ChildId, PathId, SaId};
use api::record::{Action, Command, Field, Policy};

/// The field by which a command would change an object of the configuration, make one, or hang
/// something on one; `None` for a command that IKE may give.
pub(super) fn touched(command: &Command) -> Option<Field> {
    let fields = match command {
        Command::Begin { .. } | Command::Commit | Command::Get { .. } | Command::Flush { .. } => {
            return None;
        }
        Command::PathAdd(path) | Command::PathUpdate(path) => [path_id(path.id), None],
        Command::PathDelete(id) => [path_id(*id), None],
        Command::ChildAdd(child) | Command::ChildUpdate(child) => [
            child_id(child.id, Field::CHILD_ID),
            child.path.is_static().then_some(Field::CHILD_PATH),
        ],
        Command::ChildDelete(id) => [child_id(*id, Field::CHILD_ID), None],
        Command::SaAdd(sa) => [sa_id(sa.id), child_id(sa.child, Field::SA_CHILD)],
        Command::SaUpdate { id, .. } | Command::SaDelete(id) => [sa_id(*id), None],
        Command::ActivateOutbound { child, sa } => [sa_id(*sa), child_id(*child, Field::SA_CHILD)],
        Command::PolicyAdd(policy) | Command::PolicyUpdate(policy) => {
            [policy_id(policy), policy_child(policy)]
        }
        Command::PolicyDelete(id) => [id.is_static().then_some(Field::POLICY_ID), None],
    };
    fields.into_iter().flatten().next()
}

fn path_id(id: PathId) -> Option<Field> {
    id.is_static().then_some(Field::PATH_ID)
}

fn child_id(id: ChildId, field: Field) -> Option<Field> {
    id.is_static().then_some(field)
}

fn sa_id(id: SaId) -> Option<Field> {
    id.is_static().then_some(Field::SA_ID)
}

fn policy_id(policy: &Policy) -> Option<Field> {
    policy.id.is_static().then_some(Field::POLICY_ID)
}

fn policy_child(policy: &Policy) -> Option<Field> {
    match policy.action {
        Action::Protect(child) => child_id(child, Field::POLICY_CHILD),
        Action::Bypass | Action::Discard => None,
    }
}

#[cfg(test)]
mod tests {
    use api::id::{PolicyId, STATIC_SHARD};
    use api::record::{Limits, Table};

    use super::*;
    use crate::tables::samples::{path, policy};

    #[test]
    fn what_the_configuration_made_is_not_ikes_to_change() {
        let (sa, child) = (SaId::new(STATIC_SHARD, 0, 0).unwrap(), ChildId::fixed(0));
        let (own_sa, own_child) = (SaId::new(1, 0, 0).unwrap(), ChildId(1));
        let limits = Limits::default();
        let protect = |child| policy(PolicyId(1), Action::Protect(child));
        let activate = |child, sa| Command::ActivateOutbound { child, sa };
        let (fixed_path, fixed_policy) = (PathId::fixed(0), PolicyId::fixed(0));
        for (command, field) in [
            (Command::PathAdd(path(fixed_path)), Field::PATH_ID),
            (Command::PathUpdate(path(fixed_path)), Field::PATH_ID),
            (Command::PathDelete(fixed_path), Field::PATH_ID),
            (Command::ChildDelete(child), Field::CHILD_ID),
            (Command::SaDelete(sa), Field::SA_ID),
            (Command::SaUpdate { id: sa, limits }, Field::SA_ID),
            (activate(own_child, sa), Field::SA_ID),
            (activate(child, own_sa), Field::SA_CHILD),
            (Command::PolicyAdd(protect(child)), Field::POLICY_CHILD),
            (
                Command::PolicyUpdate(policy(fixed_policy, Action::Bypass)),
                Field::POLICY_ID,
            ),
            (Command::PolicyDelete(fixed_policy), Field::POLICY_ID),
        ] {
            assert_eq!(touched(&command), Some(field), "{command:?}");
        }
        let (table, id) = (Table::Sa, sa.0);
        for command in [
            Command::Get { table, id },
            Command::PathUpdate(path(PathId(1))),
            Command::SaDelete(own_sa),
            activate(own_child, own_sa),
            Command::PolicyAdd(protect(own_child)),
        ] {
            assert_eq!(touched(&command), None, "{command:?}");
        }
    }
}
