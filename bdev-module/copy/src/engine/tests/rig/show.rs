//! What operators and hosts are shown, and what both sites hold.

use super::*;

impl Rig {
    /// The byte that a block of a pair's volume holds here.
    pub fn volume(&self, me: usize, pair: usize, lba: u64) -> u8 {
        self.systems[me].disks.get(&VolumeId(pair as u32 + 1)).map_or(0, |disk| disk.block(lba)[0])
    }

    pub fn describe(&mut self) -> String {
        let mut out = String::new();
        for me in 0..2 {
            let state = self.state(me);
            let system = &self.systems[me];
            let log = system.world.log.iter().rev().take(25).rev().cloned().collect::<Vec<_>>().join("\n    ");
            out += &format!("system {me}: {state:?} {:?}\n    {log}\n", self.reason(me));
        }
        out
    }

    /// The group's state at a system, as its part there sees it.
    pub fn state(&mut self, me: usize) -> Option<String> {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let engine = engine.as_mut()?;
        match engine.role(group())? {
            Role::Primary => {
                let (roles, world) = engine.primary(world);
                Some(roles.group_status(now, group(), &world)?.state.code().to_owned())
            }
            Role::Secondary => {
                let (roles, _) = engine.secondary(world);
                let pair = PairId::of_name(group(), &self.pairs[0]);
                Some(format!("S-{}", roles.pair_status(now, pair)?.state.code()))
            }
        }
    }

    pub fn reason(&mut self, me: usize) -> String {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let Some(engine) = engine.as_mut() else { return "down".into() };
        let there = {
            let (roles, _) = engine.secondary(world);
            format!(
                "{:?}",
                roles.group_status(now, group()).map(|it| {
                    (it.phase, it.reason, it.limit, it.recovery_point, it.unit, it.streams, it.apply_lag_records)
                })
            )
        };
        let (roles, world) = engine.primary(world);
        let here = roles
            .group_status(now, group(), &world)
            .map(|it| (it.reason, it.waiting, it.copy, it.unit, it.backlog, it.streams, it.missing_bytes));
        format!("{here:?} / {there}")
    }

    pub fn role(&self, me: usize) -> Option<Role> {
        self.systems[me].engine.as_ref()?.role(group())
    }

    pub fn outcome(&self, me: usize, token: HostToken) -> Option<Result<(), HostError>> {
        self.systems[me].world.hosts.get(&token.0).map(|(outcome, _)| *outcome)
    }

    pub fn answer(&self, me: usize, ticket: Ticket) -> Option<Result<OperatorAnswer, OperatorError>> {
        self.systems[me].world.answers.get(&ticket.0).cloned()
    }

    /// The generation that a system's primary is at.
    pub fn generation(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let Some(engine) = engine.as_mut() else { return 0 };
        let (roles, world) = engine.primary(world);
        roles.group_status(now, group(), &world).map_or(0, |status| status.generation.number)
    }

    pub fn whole_generation(&mut self, me: usize) -> Generation {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, world) = engine.as_mut().expect("a system that is up").primary(world);
        roles.group_status(now, group(), &world).expect("a primary").generation
    }

    pub fn system_id(&self, me: usize) -> SystemId {
        SystemId::of_key(&public_of(&self.systems[me].key))
    }

    /// Whether a system's metadata says, durably, that it hands the group over.
    pub fn is_handing_over(&self, me: usize) -> bool {
        let note = self.systems[me].durable_meta.get(&format!("primary/handover/{:016x}", group().0));
        note.is_some_and(|note| !note.is_empty())
    }

    /// Bytes that a primary's dirty maps mark.
    pub fn marked(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, world) = engine.as_mut().expect("a system that is up").primary(world);
        roles.group_status(now, group(), &world).map_or(0, |status| status.dirty_bytes)
    }

    /// Bytes that only a copy brings to a primary's secondary.
    pub fn missing(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, world) = engine.as_mut().expect("a system that is up").primary(world);
        roles.group_status(now, group(), &world).map_or(0, |status| status.missing_bytes)
    }

    /// Whether a primary takes itself for one of two that continue one history.
    pub fn is_split(&mut self, me: usize) -> bool {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, world) = engine.as_mut().expect("a system that is up").primary(world);
        roles.group_status(now, group(), &world).is_some_and(|status| status.split_brain)
    }

    /// A secondary's recovery point.
    pub fn recovery_point(&mut self, me: usize) -> Time {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let (roles, _) = engine.as_mut().expect("a system that is up").secondary(world);
        roles.group_status(now, group()).expect("the group's secondary").recovery_point
    }

    /// Whether a line of a system's log has this in it.
    pub fn has_logged(&self, me: usize, what: &str) -> bool {
        self.systems[me].world.log.iter().any(|line| line.contains(what))
    }

    /// Records that the secondary does not have durably, as far as its primary knows.
    pub fn lacks_records(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[1 - me];
        let Some(engine) = engine.as_mut() else { return 1 };
        let (roles, world) = engine.primary(world);
        roles.group_status(now, group(), &world).map_or(1, |status| status.backlog.records)
    }

    /// Records that a secondary has not applied, or has not received as far as the primary knows.
    pub fn lacks(&mut self, me: usize) -> u64 {
        let now = self.now();
        let System { engine, world, .. } = &mut self.systems[me];
        let Some(engine) = engine.as_mut() else { return 1 };
        let (roles, _) = engine.secondary(world);
        let lag = roles.group_status(now, group()).map_or(1, |status| status.apply_lag_records);
        let System { engine, world, .. } = &mut self.systems[1 - me];
        let Some(engine) = engine.as_mut() else { return 1 };
        let (roles, world) = engine.primary(world);
        lag + roles.group_status(now, group(), &world).map_or(1, |status| status.backlog.records + status.missing_bytes)
    }

    /// How many blocks a system's hosts see of a pair.
    pub fn shown_blocks(&mut self, me: usize, pair: usize) -> Option<u64> {
        let (now, id) = (self.now(), PairId::of_name(group(), &self.pairs[pair]));
        let System { engine, world, .. } = &mut self.systems[me];
        let engine = engine.as_mut()?;
        match engine.role(group())? {
            Role::Primary => Some(engine.primary(world).0.pair_status(now, id)?.geometry.blocks),
            Role::Secondary => Some(engine.secondary(world).0.pair_status(now, id)?.geometry.blocks),
        }
    }

    /// Whether a primary's metadata says, durably, that a pair has so many blocks.
    pub fn has_kept_size(&self, me: usize, pair: usize, blocks: u64) -> bool {
        let id = PairId::of_name(group(), &self.pairs[pair]);
        let record = self.systems[me].durable_meta.get(&format!("primary/pair/{:016x}", id.0));
        // Behind the version.
        record.is_some_and(|record| record.get(1..9) == Some(&blocks.to_le_bytes()[..]))
    }

    /// What the volumes are to hosts of a system.
    pub fn identities(&self, me: usize) -> Vec<Option<[u8; 16]>> {
        let world = &self.systems[me].world;
        let pairs = self.pairs.iter().map(|name| PairId::of_name(group(), name));
        pairs.map(|pair| identity::of_pair(pair, world)).collect()
    }

    /// Whether a disaster takeover or an abandoned swap has made both serve: allowed by an operator's word only.
    pub(super) fn disaster(&self) -> bool {
        ["takeover begins", "swap abandoned"].iter().any(|word| (0..2).any(|me| self.has_logged(me, word)))
    }

    /// Whether a system knows of a session with the other one.
    pub fn link_is_up(&self, me: usize) -> bool {
        self.systems[me].engine.as_ref().is_some_and(|engine| engine.link_is_up(LinkId(0)))
    }

    /// Whether hosts' writes would be taken here.
    pub fn serves(&mut self, me: usize) -> bool {
        self.systems[me].engine.as_ref().is_some_and(|engine| engine.serves_hosts(group()))
    }

    /// Both sides hold the same in these blocks.
    pub fn assert_equal_in(&mut self, pair: usize, blocks: std::ops::Range<u64>) {
        let volume = VolumeId(pair as u32 + 1);
        for lba in blocks {
            let held = [0, 1].map(|me| self.systems[me].disks.get(&volume).map_or([0; BLOCK], |disk| disk.block(lba)));
            assert_eq!(held[0][0], held[1][0], "pair {pair} block {lba} differs\n{}", self.describe());
        }
    }

    /// Both volumes hold, block by block, what hosts were told is written.
    pub fn assert_equal(&mut self) {
        for pair in 0..self.pairs.len() {
            let volume = VolumeId(pair as u32 + 1);
            for lba in 0..BLOCKS {
                let blocks =
                    [0, 1].map(|me| self.systems[me].disks.get(&volume).map_or([0; BLOCK], |disk| disk.block(lba)));
                assert_eq!(blocks[0][0], blocks[1][0], "pair {pair} block {lba} differs\n{}", self.describe());
            }
        }
    }

    /// Zero loss: at this system every write that was answered is there (or a later one that was not).
    pub fn assert_told(&mut self, me: usize) {
        for ((pair, lba), (value, others)) in self.told.clone() {
            let disk = self.systems[me].disks.get(&VolumeId(pair as u32 + 1));
            let found = disk.map_or(0, |disk| disk.block(lba)[0]);
            assert!(
                found == value || others.contains(&found),
                "an answered write is lost: pair {pair} block {lba} holds {found}, told {value} {others:?}\n{}",
                self.describe()
            );
        }
    }
}
