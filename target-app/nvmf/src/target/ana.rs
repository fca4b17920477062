//! Who may use which namespaces on which path (Asymmetric Namespace Access, Base 2.0, 8.1), as the configuration says it.
//!
//! Two parties have a say. An operator gives each listener a state, for all ANA groups or for one. The embedding, which
//! knows whether a volume is at this system at all, *holds* a group in a state on every listener while it must not be used,
//! as in a planned swap; the state that counts is the worse of the two. What hosts are told and what their commands are
//! answered with comes from the same place, so neither can run ahead of the other.

use std::{collections::BTreeMap, fmt};

use super::{ListenAddress, Nsid, Subsystem};
use crate::spec::{AnaState, Status};

/// How long a group may stay in [`AnaState::Change`] before hosts give the path up (Identify Controller ANATT), seconds.
pub const ANA_TRANSITION_SECONDS_MAX: u8 = 10;

/// An ANA group's number (ANAGRPID), not 0. All namespaces of a group are in the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnaGroup(u32);

impl AnaGroup {
    /// None for 0, which stands for no group.
    pub const fn new(value: u32) -> Option<Self> {
        if value == 0 { None } else { Some(Self(value)) }
    }

    /// A namespace's own group: its number is the namespace's.
    pub const fn of(nsid: Nsid) -> Self {
        Self(nsid.get())
    }

    /// The number on the wire.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for AnaGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The states of a subsystem's ANA groups. Everything is optimized until something else is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnaTable {
    /// Whether hosts are told: CMIC, the log page, events. Commands are refused by the states either way. To be decided
    /// before hosts connect; they look at it once.
    pub reporting: bool,
    listeners: BTreeMap<ListenAddress, OfListener>,
    held: BTreeMap<AnaGroup, AnaState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfListener {
    all: AnaState,
    but: BTreeMap<AnaGroup, AnaState>,
}

impl AnaTable {
    /// What an operator wants of a listener: of one group, or of all, which forgets what was said of single ones.
    pub fn set_listener(&mut self, listener: ListenAddress, group: Option<AnaGroup>, state: AnaState) {
        let of = self.listeners.entry(listener).or_default();
        match group {
            Some(group) => drop(of.but.insert(group, state)),
            None => *of = OfListener { all: state, but: BTreeMap::new() },
        }
        if *of == OfListener::default() {
            self.listeners.remove(&listener);
        }
    }

    /// Forgets a listener that is removed.
    pub fn forget_listener(&mut self, listener: &ListenAddress) {
        self.listeners.remove(listener);
    }

    /// What was said of a listener: for all groups, and for those that differ.
    pub fn of_listener(&self, listener: &ListenAddress) -> (AnaState, impl Iterator<Item = (AnaGroup, AnaState)> + '_) {
        let of = self.listeners.get(listener);
        let single = of.into_iter().flat_map(|of| of.but.iter().map(|(group, state)| (*group, *state)));
        (of.map_or(AnaState::Optimized, |of| of.all), single)
    }

    /// The embedding holds a group in a state that is worse than what the operator wants, or lets go of it.
    pub fn hold(&mut self, group: AnaGroup, state: Option<AnaState>) {
        match state {
            Some(state) => drop(self.held.insert(group, state)),
            None => drop(self.held.remove(&group)),
        }
    }

    /// What a group is held in.
    pub fn held(&self, group: AnaGroup) -> Option<AnaState> {
        self.held.get(&group).copied()
    }

    /// The state of a group on the controllers that are reached through `listener`.
    pub fn state(&self, listener: &ListenAddress, group: AnaGroup) -> AnaState {
        // Nearly always nothing was said, and this is asked for every command.
        if self.listeners.is_empty() && self.held.is_empty() {
            return AnaState::Optimized;
        }
        let wanted = self.listeners.get(listener).map(|of| of.but.get(&group).copied().unwrap_or(of.all));
        wanted.unwrap_or_default().worse(self.held(group).unwrap_or_default())
    }
}

/// What an I/O command is answered with in a state, if it is not served. Without Do Not Retry: hosts are to try another path.
pub(super) const fn refusal(state: AnaState) -> Option<Status> {
    match state {
        AnaState::Optimized | AnaState::NonOptimized => None,
        AnaState::Change => Some(Status::ANA_TRANSITION),
        AnaState::Inaccessible => Some(Status::ANA_INACCESSIBLE),
        AnaState::PersistentLoss => Some(Status::ANA_PERSISTENT_LOSS),
    }
}

/// One group as a controller reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupReport {
    pub(super) state: AnaState,
    pub(super) nsids: Vec<Nsid>,
    /// How often this changed since the controller's reset.
    pub(super) changes: u64,
}

/// What a controller reports, and how often that changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) groups: BTreeMap<AnaGroup, GroupReport>,
    pub(super) changes: u64,
}

impl Report {
    /// Takes in the configuration. True when a group that was there has changed its state: what hosts are sent an event
    /// for. Namespaces that come and go have an event of their own.
    pub(super) fn update(&mut self, subsystem: &Subsystem, listener: &ListenAddress) -> bool {
        let mut now: BTreeMap<AnaGroup, GroupReport> = BTreeMap::new();
        for (nsid, namespace) in &subsystem.namespaces {
            let state = subsystem.ana.state(listener, namespace.ana_group);
            let group = now.entry(namespace.ana_group);
            group.or_insert_with(|| GroupReport { state, nsids: Vec::new(), changes: 0 }).nsids.push(*nsid);
        }
        let (mut changed, mut is_event) = (now.len() != self.groups.len(), false);
        for (group, report) in &mut now {
            let Some(before) = self.groups.get(group) else {
                changed = true;
                continue;
            };
            let same = before.state == report.state && before.nsids == report.nsids;
            report.changes = before.changes + u64::from(!same);
            changed |= !same;
            is_event |= before.state != report.state;
        }
        self.changes += u64::from(changed);
        self.groups = now;
        is_event
    }

    /// A reset begins to count again.
    pub(super) fn reset(&mut self) {
        self.changes = 0;
        for group in self.groups.values_mut() {
            group.changes = 0;
        }
    }
}
