//! The process itself: reactors, configuration, methods, version, log, end.

use serde::{Deserialize, Serialize};

/// `framework_get_reactors`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameworkGetReactors {}

/// What `framework_get_reactors` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reactors {
    /// Ticks per second.
    pub tick_rate: u64,
    /// The process.
    pub pid: u32,
    /// One per configured core.
    pub reactors: Vec<Reactor>,
}

/// A core and what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reactor {
    /// The core.
    pub lcore: u32,
    /// The kernel's thread id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// Ticks in turns that found work.
    pub busy: u64,
    /// Ticks in turns that found none, asleep or not.
    pub idle: u64,
    /// Whether it sleeps in the kernel when idle.
    pub in_interrupt: bool,
    /// How the kernel learns of its work: `enter` (a system call each turn) or `sqpoll` (a thread of the kernel's polls).
    #[serde(default)]
    pub io: String,
    /// Calls of `io_uring_enter` since the start.
    #[serde(default)]
    pub enters: u64,
    /// Allocations and frees by its thread since the start, but for what RPCs and the control plane had it do.
    #[serde(default)]
    pub allocations: u64,
    /// Where its time went since the start, in a build that keeps accounts (the feature `accounting`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<Accounts>,
    /// What is at home on it: volumes, streams, groups, listeners, by name.
    #[serde(default)]
    pub lw_threads: Vec<LwThread>,
}

/// Where a core's time went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// How fast the counter of the cycles counts.
    pub cycles_per_s: u64,
    /// Each step of a write's way, and what is none, in the order in which a write comes by.
    pub steps: Vec<StepAccount>,
}

impl Accounts {
    /// What came since an earlier look at the same core.
    pub fn since(&self, before: &Accounts) -> Accounts {
        let mut between = self.clone();
        for (step, before) in between.steps.iter_mut().zip(&before.steps) {
            step.entered = step.entered.saturating_sub(before.entered);
            step.cycles = step.cycles.saturating_sub(before.cycles);
        }
        between
    }

    /// Nanoseconds of so many cycles.
    pub fn ns(&self, cycles: u64) -> f64 {
        cycles as f64 * 1e9 / self.cycles_per_s.max(1) as f64
    }
}

/// What a step took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAccount {
    /// Its name.
    pub step: String,
    /// How often it was entered.
    pub entered: u64,
    /// Cycles in it, without those of steps that were reached from it.
    pub cycles: u64,
}

/// Something that is at home on a core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LwThread {
    /// Its name, with its kind before it (`group:g0`).
    pub name: String,
    /// Its number in the process.
    pub id: u64,
}

/// `framework_get_subsystems`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameworkGetSubsystems {}

/// A part of the configuration, and the parts that must be set up before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameworkSubsystem {
    /// Its name, for `framework_get_config`.
    pub subsystem: String,
    /// The parts before it.
    pub depends_on: Vec<String>,
}

/// `framework_get_config`: the calls that set up one part as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameworkGetConfig {
    /// The part's name, from `framework_get_subsystems`.
    pub name: String,
}

/// `framework_start_init`: leaves the state in which a process waits for its configuration. Longrun is ready from its
/// start, so that this succeeds without doing anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameworkStartInit {}

/// `framework_wait_init`: answers when the process is ready.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameworkWaitInit {}

/// `rpc_get_methods`: the names of the methods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RpcGetMethods {
    /// Only those that can be called now; default `false`.
    pub current: Option<bool>,
    /// Other names of the same methods too; default `false`.
    pub include_aliases: Option<bool>,
}

impl RpcGetMethods {
    /// The answer, where every method can be called at any time.
    pub fn answer(&self) -> Vec<String> {
        let aliases = if self.include_aliases == Some(true) { super::ALIASES } else { &[] };
        super::METHODS.iter().chain(aliases).map(|name| (*name).to_owned()).collect()
    }
}

/// `spdk_get_version`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpdkGetVersion {}

/// The running version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// For people: `Longrun v0.1.0`.
    pub version: String,
    /// For programs.
    pub fields: VersionFields,
}

/// A version's parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each says itself")]
pub struct VersionFields {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
    pub suffix: String,
}

impl Version {
    /// The version this crate was built as.
    pub fn current() -> Self {
        let part = |text: &str| text.parse().unwrap_or(0);
        Self {
            version: concat!("Longrun v", env!("CARGO_PKG_VERSION")).to_owned(),
            fields: VersionFields {
                major: part(env!("CARGO_PKG_VERSION_MAJOR")),
                minor: part(env!("CARGO_PKG_VERSION_MINOR")),
                patch: part(env!("CARGO_PKG_VERSION_PATCH")),
                suffix: env!("CARGO_PKG_VERSION_PRE").to_owned(),
            },
        }
    }
}

/// `spdk_kill_instance`: ends the process, after this answer, as the signal would.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpdkKillInstance {
    /// The signal.
    pub sig_name: Signal,
}

/// A signal by name (`SIGTERM`, `TERM`) or number, as SPDK accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SignalText", into = "String")]
#[allow(missing_docs, reason = "each says itself")]
pub enum Signal {
    Int,
    Term,
    Quit,
    Hup,
    Kill,
    Usr1,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SignalText {
    Text(String),
    Number(i64),
}

impl Signal {
    const ALL: [(Self, &'static str, i32); 6] = [
        (Self::Int, "SIGINT", libc::SIGINT),
        (Self::Term, "SIGTERM", libc::SIGTERM),
        (Self::Quit, "SIGQUIT", libc::SIGQUIT),
        (Self::Hup, "SIGHUP", libc::SIGHUP),
        (Self::Kill, "SIGKILL", libc::SIGKILL),
        (Self::Usr1, "SIGUSR1", libc::SIGUSR1),
    ];

    /// Its name with `SIG`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int => "SIGINT",
            Self::Term => "SIGTERM",
            Self::Quit => "SIGQUIT",
            Self::Hup => "SIGHUP",
            Self::Kill => "SIGKILL",
            Self::Usr1 => "SIGUSR1",
        }
    }
}

impl TryFrom<SignalText> for Signal {
    type Error = String;

    fn try_from(given: SignalText) -> Result<Self, String> {
        let text = match given {
            SignalText::Text(text) => text,
            SignalText::Number(number) => number.to_string(),
        };
        Self::ALL
            .iter()
            .find(|(_, name, number)| {
                text == *name || Some(text.as_str()) == name.strip_prefix("SIG") || text == number.to_string()
            })
            .map(|(signal, ..)| *signal)
            .ok_or_else(|| {
                let shown = crate::error::shorten(&text);
                format!("signal {shown:?}, expected SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGKILL or SIGUSR1")
            })
    }
}

impl From<Signal> for String {
    fn from(signal: Signal) -> String {
        signal.name().to_owned()
    }
}

/// `log_set_level`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSetLevel {
    /// From now on.
    pub level: LogLevel,
}

/// `log_get_level`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogGetLevel {}

/// What is logged: this and what is graver. SPDK's names, in capitals or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[allow(missing_docs, reason = "each says itself")]
pub enum LogLevel {
    Disabled,
    Error,
    Warning,
    #[default]
    Notice,
    Info,
    Debug,
}

impl LogLevel {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "DISABLED",
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }
}

impl TryFrom<String> for LogLevel {
    type Error = String;

    fn try_from(given: String) -> Result<Self, String> {
        [Self::Disabled, Self::Error, Self::Warning, Self::Notice, Self::Info, Self::Debug]
            .into_iter()
            .find(|level| given.eq_ignore_ascii_case(level.name()))
            .ok_or_else(|| {
                let shown = crate::error::shorten(&given);
                format!("log level {shown:?}, expected DISABLED, ERROR, WARNING, NOTICE, INFO or DEBUG")
            })
    }
}

impl From<LogLevel> for String {
    fn from(level: LogLevel) -> String {
        level.name().to_owned()
    }
}
