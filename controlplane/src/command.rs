//! Commands of the operator, and what is told about SAs.

use std::time::{Duration, Instant};

use ike::{ChildId, IkeId, Level, Request, Target, Verb};
use tokio::sync::mpsc::UnboundedSender;

use crate::admin::{self, IkeStatus, Reply};
use crate::admin_server::Call;
use crate::config;
use crate::daemon::{Daemon, End, Pending, now};
use crate::show;

impl Daemon {
    pub(crate) fn call(&mut self, Call { request, replies }: Call) {
        match request {
            admin::Request::Status => {
                let _ = replies.send(Reply::Status(self.status()));
                let _ = replies.send(Reply::Ok(true));
            }
            admin::Request::ListSas => {
                for view in self.endpoint.list() {
                    let _ = replies.send(Reply::Sa(Box::new(show::ike_sa(&view, now()))));
                }
                let _ = replies.send(Reply::Ok(true));
            }
            admin::Request::Initiate {
                ike,
                child,
                timeout_s,
            } => match self.connection_of(ike, child.as_deref()) {
                Ok(connection) => {
                    let verb = Verb::Initiate { connection, child };
                    self.ask(verb, timeout_s, replies);
                }
                Err(text) => {
                    let _ = replies.send(Reply::Error(text));
                }
            },
            admin::Request::Terminate { target, timeout_s } => {
                self.ask_about(target, Verb::Terminate, timeout_s, replies);
            }
            admin::Request::Rekey { target, timeout_s } => {
                self.ask_about(target, Verb::Rekey, timeout_s, replies);
            }
            admin::Request::Reload => self.reload(Some(&replies)),
            admin::Request::Handover => {
                let _ = replies.send(Reply::Ok(true));
                self.end = Some(End::Handover);
                self.farewell = Some(replies);
            }
        }
    }

    fn ask(&mut self, verb: Verb, timeout_s: u64, replies: UnboundedSender<Reply>) {
        self.last_request += 1;
        let id = self.last_request;
        let until = Instant::now() + Duration::from_secs(timeout_s.min(86_400));
        self.pending.insert(id, Pending { replies, until });
        self.endpoint
            .handle_command(now(), &mut self.host, Request { id, verb });
    }

    fn ask_about(
        &mut self,
        target: admin::Target,
        verb: fn(Target) -> Verb,
        timeout_s: u64,
        replies: UnboundedSender<Reply>,
    ) {
        let admin::Target {
            ike,
            child,
            ike_id,
            child_id,
        } = target;
        let target = match (child_id, child, ike_id, ike) {
            (Some(id), _, _, _) => Target::Child(ChildId(id)),
            (None, Some(child), _, connection) => Target::ChildName { connection, child },
            (None, None, Some(id), _) => Target::Ike(IkeId(id)),
            (None, None, None, Some(connection)) => Target::Connection(connection),
            (None, None, None, None) => {
                let text = "which SA? name it with --ike, --child, --ike-id or --child-id";
                let _ = replies.send(Reply::Error(text.to_owned()));
                return;
            }
        };
        self.ask(verb(target), timeout_s, replies);
    }

    /// The connection that is meant: named, or the only one with this child.
    fn connection_of(&self, named: Option<String>, child: Option<&str>) -> Result<String, String> {
        if let Some(name) = named {
            return Ok(name);
        }
        let Some(child) = child else {
            return Err("what? name a connection with --ike or a child with --child".to_owned());
        };
        let has = |connection: &&ike::config::Connection| {
            connection.children.iter().any(|one| one.name == child)
        };
        let mut found = self.config.connections.iter().filter(has);
        match (found.next(), found.next()) {
            (Some(connection), None) => Ok(connection.name.clone()),
            (None, _) => Err(format!("no connection has a child named \"{child}\"")),
            (Some(a), Some(b)) => Err(format!(
                "connections {} and {} both have a child \"{child}\": add --ike",
                a.name, b.name
            )),
        }
    }

    /// Reads the configuration again. With faults, the one in force stays.
    pub(crate) fn reload(&mut self, replies: Option<&UnboundedSender<Reply>>) {
        let (lines, result) = match config::load(&self.config_path) {
            Ok((config, warnings)) => {
                self.config = config;
                self.load();
                self.endpoint.start(now(), &mut self.host);
                (warnings.to_string(), Ok(()))
            }
            Err(faults) => (faults.to_string(), Err("the configuration in force stays")),
        };
        let level = if result.is_ok() { "warn" } else { "error" };
        for line in lines.lines() {
            tracing::warn!("reload: {line}");
            if let Some(replies) = replies {
                let line = admin::LogLine {
                    level: level.to_owned(),
                    text: line.to_owned(),
                };
                let _ = replies.send(Reply::Log(line));
            }
        }
        let text = if result.is_ok() {
            "configuration loaded again"
        } else {
            "reload refused"
        };
        self.log(Level::Info, "", text);
        if let Some(replies) = replies {
            let _ = replies.send(match result {
                Ok(()) => Reply::Ok(true),
                Err(text) => Reply::Error(text.to_owned()),
            });
        }
    }

    /// Hands the configuration to the endpoint and the shunts to the dataplane.
    pub(crate) fn load(&mut self) {
        let orders = self.book.set_shunts(&self.config.shunts);
        self.order(None, orders);
        let (connections, secrets) = (self.config.connections.clone(), self.config.secrets.clone());
        self.endpoint
            .load(now(), &mut self.host, connections, secrets);
    }

    fn status(&self) -> IkeStatus {
        let list = self.endpoint.list();
        let established = list
            .iter()
            .filter(|view| show::is_established(view))
            .count();
        let children: usize = list.iter().map(|view| view.children.len()).sum();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        IkeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            dataplane_connected: self.link.is_up(),
            connections: count(self.config.connections.len()),
            ike_sas: count(established),
            half_open: count(list.len() - established),
            child_sas: count(children),
            counters: std::collections::BTreeMap::new(),
        }
    }
}
