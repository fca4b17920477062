//! What a system is told when it starts.

use super::*;

impl Rig {
    /// Starts a system's process; its operator's configuration is repeated.
    pub fn start(&mut self, me: usize) {
        let mut seed = [0; 32];
        self.chance.fill_bytes(&mut seed);
        let mut primary = PrimaryConfig::new(SystemId::of_key(&public_of(&self.systems[me].key)));
        primary.retry_ns = 20_000_000;
        primary.clear_after_ns = 20_000_000;
        primary.resync_pause_ns = 20_000_000;
        let secondary = SecondaryConfig {
            receive_bytes: 16 << 20,
            streams_max: 4,
            checkpoint_interval_ns: 20_000_000,
            ..Default::default()
        };
        let (mine, theirs) = (self.systems[me].key, self.systems[1 - me].key);
        let mut link = LinkConfig::new(mine, public_of(&theirs), Some(address(1 - me)));
        (link.security, link.dead_after_ns, link.keepalive_ns) = (Security::None, 300_000_000, 60_000_000);
        let system = &mut self.systems[me];
        system.world.meta = system.durable_meta.clone();
        system.world.roles.clear();
        let mut engine = Engine::new(EngineConfig { primary, secondary, seed });
        assert_eq!(engine.link_create(link), Ok(LinkId(0)));
        system.engine = Some(engine);
        let as_primary = self.as_primary(me);
        let as_secondary = secondary::GroupConfig {
            name: NAME.into(),
            journal: JOURNAL,
            journal_geometry: Geometry { blocks: JOURNAL_BYTES / BLOCK as u64, block_bytes: BLOCK as u32 },
            overlay: None,
            apply_delay_ns: self.apply_delay_ns,
        };
        let role = role::recorded(group(), &self.systems[me].world).unwrap_or(self.systems[me].configured);
        let now = self.now();
        for index in 0..=self.pairs.len() {
            let System { engine, world, .. } = &mut self.systems[me];
            let engine = engine.as_mut().unwrap();
            let pair = index.checked_sub(1);
            match (role, pair) {
                (Role::Primary, None) => {
                    engine.offer_secondary(group(), as_secondary.clone());
                    let (roles, mut world) = engine.primary(world);
                    roles.group_create(now, as_primary.clone(), &mut world).unwrap();
                }
                (Role::Secondary, None) => {
                    engine.offer_primary(group(), as_primary.clone());
                    let (roles, mut world) = engine.secondary(world);
                    match self.lost_journals.contains(&me) {
                        true => roles.group_take_up(now, NAME, &mut world).unwrap(),
                        false => roles.group_create(now, as_secondary.clone(), &mut world).unwrap(),
                    };
                }
                (_, Some(pair)) => self.create_pair(me, pair),
            }
        }
        self.settle(me);
    }

    /// A pair, in whichever part its group has it here.
    pub fn create_pair(&mut self, me: usize, pair: usize) {
        let (now, ticket, volume) = (self.now(), self.ticket(), VolumeId(pair as u32 + 1));
        let blocks = self.systems[me].world.larger.get(&volume).copied().unwrap_or(BLOCKS);
        let geometry = Geometry { blocks, block_bytes: BLOCK as u32 };
        let name = self.pairs[pair].clone();
        let id = PairId::of_name(group(), &name);
        let System { engine, world, .. } = &mut self.systems[me];
        let engine = engine.as_mut().unwrap();
        match engine.pair_role(now, group(), id, world).unwrap() {
            Role::Primary => {
                let config = primary::PairConfig {
                    group: group(),
                    name,
                    volume,
                    geometry,
                    remote_volume: String::new(),
                    initial: Initial::Identical,
                    volatile: false,
                };
                let (roles, mut world) = engine.primary(world);
                // Told of the disk that it would be here; what it is known as already counts.
                roles.identify(id, [me as u8 + 1; 16], &mut world);
                roles.pair_create(now, config, ticket, &mut world).unwrap();
            }
            Role::Secondary => {
                let config = secondary::PairConfig {
                    group: NAME.into(),
                    name,
                    volume,
                    volume_name: String::new(),
                    geometry,
                    initial: Initial::Identical,
                    volatile: false,
                };
                let (roles, mut world) = engine.secondary(world);
                roles.pair_create(now, config, ticket, &mut world).unwrap();
            }
        }
    }

    pub(super) fn as_primary(&self, me: usize) -> primary::GroupConfig {
        primary::GroupConfig {
            name: NAME.into(),
            scope: self.scope,
            link: LinkId(0),
            remote: SystemId::of_key(&public_of(&self.systems[1 - me].key)),
            throttle_ms_max: 10,
            buffer_bytes: if self.has_spill { 128 << 10 } else { 8 << 20 },
            overflow: Overflow::Throttle,
            spill: self
                .has_spill
                .then_some((SPILL, Geometry { blocks: SPILL_BYTES / BLOCK as u64, block_bytes: BLOCK as u32 })),
            copy_bytes_per_s: None,
        }
    }

    pub fn as_secondary(&self) -> secondary::GroupConfig {
        secondary::GroupConfig {
            name: NAME.into(),
            journal: JOURNAL,
            journal_geometry: Geometry { blocks: JOURNAL_BYTES / BLOCK as u64, block_bytes: BLOCK as u32 },
            overlay: None,
            apply_delay_ns: 0,
        }
    }
}
