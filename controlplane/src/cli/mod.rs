//! The command `culvert`: asks the two processes over their sockets, and checks files.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or faults in the configuration.

mod check;
mod client;
mod show;
mod table;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::admin::{Request, TableName, Target};
use client::{Client, Failure};

const FAILED: u8 = 1;
pub(crate) const FAULTS: u8 = 2;
const DEFAULT_FILE: &str = "/etc/culvert/culvert.toml";

/// Look at and command a culvert gateway.
#[derive(Debug, Parser)]
#[command(name = "culvert", version, about, max_term_width = 100)]
struct Arguments {
    /// Directory with the sockets of culvert-ike and culvert-dataplane.
    #[arg(
        long,
        global = true,
        env = "CULVERT_RUN_DIR",
        default_value = "/run/culvert"
    )]
    run_dir: PathBuf,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Both processes in a few lines.
    Status,
    /// IKE SAs and their children, with packets and bytes.
    Sas,
    /// The policies (SPD) the dataplane applies.
    Policies,
    /// Counters, with what each counts.
    Counters {
        /// Also those that are 0.
        #[arg(long)]
        all: bool,
    },
    /// Ports with their twins and packets.
    Ports,
    /// Routes the dataplane forwards by.
    Routes,
    /// Neighbours the dataplane knows.
    Neighbours,
    /// Bring a child, or an IKE SA alone, up.
    Initiate(Initiate),
    /// Delete SAs.
    Terminate(Chosen),
    /// Replace the keys of SAs.
    Rekey(Chosen),
    /// Check a configuration file; all its faults are told at once.
    Check {
        #[arg(default_value = DEFAULT_FILE)]
        file: PathBuf,
    },
    /// End culvert-ike and leave its SAs for the next one.
    Handover,
    /// Make culvert-ike read its configuration again.
    Reload,
}

#[derive(Debug, Args)]
struct Initiate {
    #[command(flatten)]
    what: What,
    /// Seconds to wait for the end.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct What {
    /// Name of the connection.
    #[arg(long, value_name = "CONNECTION")]
    ike: Option<String>,
    /// Name of the child; without it an IKE SA alone is made.
    #[arg(long, value_name = "CHILD")]
    child: Option<String>,
}

#[derive(Debug, Args)]
struct Chosen {
    #[command(flatten)]
    names: Names,
    /// Seconds to wait for the end.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Names {
    /// Every IKE SA of this connection.
    #[arg(long, value_name = "CONNECTION")]
    ike: Option<String>,
    /// Every child of this name (with --ike: of that connection).
    #[arg(long, value_name = "CHILD")]
    child: Option<String>,
    /// The IKE SA with this number.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["ike", "child", "child_id"])]
    ike_id: Option<u64>,
    /// The child with this number.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["ike", "child"])]
    child_id: Option<u32>,
}

impl From<Names> for Target {
    fn from(names: Names) -> Self {
        Self {
            ike: names.ike,
            child: names.child,
            ike_id: names.ike_id,
            child_id: names.child_id,
        }
    }
}

/// Parses the command line, does what it says, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = io::stdout().lock();
    match run(arguments, &mut out) {
        Ok(code) => ExitCode::from(code),
        // A reader that went away (`culvert sas | head`) is no failure.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // Nothing is left to do if even this cannot be written.
            let _ = writeln!(io::stderr(), "culvert: {failure}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(arguments: Arguments, out: &mut impl Write) -> Result<u8, Failure> {
    let client = Client::new(arguments.run_dir);
    let json = arguments.json;
    match arguments.command {
        Command::Check { file } => return check::run(&file, json, out),
        Command::Status => show::status(&client, json, out)?,
        Command::Sas => show::sas(&client, json, out)?,
        Command::Policies => show::table(&client, TableName::Policies, json, false, out)?,
        Command::Counters { all } => show::table(&client, TableName::Counters, json, all, out)?,
        Command::Ports => show::table(&client, TableName::Ports, json, false, out)?,
        Command::Routes => show::table(&client, TableName::Routes, json, false, out)?,
        Command::Neighbours => show::table(&client, TableName::Neighbours, json, false, out)?,
        Command::Initiate(Initiate { what, timeout }) => {
            let request = Request::Initiate {
                ike: what.ike,
                child: what.child,
                timeout_s: timeout,
            };
            command(&client, &request, timeout, json, out)?;
        }
        Command::Terminate(Chosen { names, timeout }) => {
            let request = Request::Terminate {
                target: names.into(),
                timeout_s: timeout,
            };
            command(&client, &request, timeout, json, out)?;
        }
        Command::Rekey(Chosen { names, timeout }) => {
            let request = Request::Rekey {
                target: names.into(),
                timeout_s: timeout,
            };
            command(&client, &request, timeout, json, out)?;
        }
        Command::Handover => command(&client, &Request::Handover, client::PATIENCE_S, json, out)?,
        Command::Reload => command(&client, &Request::Reload, client::PATIENCE_S, json, out)?,
    }
    Ok(0)
}

/// Sends a command to culvert-ike and prints what it says until it is done.
fn command(
    client: &Client,
    request: &Request,
    timeout_s: u64,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    client.ike(request, timeout_s, |reply| show::reply(&reply, json, out))
}

#[cfg(test)]
mod tests;
