//! What operators command while a world runs: what makes sense and what does not. A refusal is a sentence and changes
//! nothing: neither what is shown, nor what is durable, nor what is sent.

use crate::coverage::Hit;
use crate::node::Out;
use crate::world::World;
use longrun_copy::engine::OperatorError;
use longrun_copy::ports::{OperatorAnswer, Ticket};
use longrun_copy::primary;
use longrun_copy::secondary::{self, TakeoverAt, TakeoverConsent};
use longrun_copy::types::{Geometry, GroupId, Initial, Now, Overflow, PairId, Scope, Time, VolumeId};

/// What a command may end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Refusal,
    Either,
}

impl World {
    /// An operator of this node commands something.
    pub fn operator_does(&mut self, node: usize) {
        if self.nodes[node].engine.is_none() || self.trouble[node].is_shutting_down {
            return;
        }
        let group = self.chance.below(self.groups.len());
        let before = self.shown(node);
        let which = self.chance.below(16);
        let (expected, name, answer) = match node == self.secondary() {
            true => self.command_secondary(node, group, which),
            false => self.command_primary(node, group, which),
        };
        self.say(node, format_args!("operator: {name} of group {group}: {answer:?}"));
        self.note(50, which as u64, u64::from(answer.is_ok()));
        match answer {
            Ok(()) => {
                assert!(expected == Expect::Either, "promise 6: an operator's {name} was not refused");
                self.totals.granted += 1;
                if name == "group_verify" {
                    self.verify_began(node, group, false);
                }
                self.cover_group(node, group, Hit::Legal);
            }
            Err(error) => {
                let text = error.to_string();
                assert!(
                    text.len() > 15 && text.contains(' '),
                    "an operator's {name} is refused without a sentence: {text}"
                );
                let after = self.shown(node);
                assert!(before == after, "an operator's {name} was refused ({text}), but changed {before} to {after}");
                let asked = &self.refused_outs;
                assert!(*asked == 0, "an operator's {name} was refused ({text}), but {asked} things were asked for");
                self.totals.refused += 1;
                self.cover_group(node, group, Hit::Illegal);
            }
        }
    }

    /// Everything that a node shows of its roles.
    fn shown(&mut self, node: usize) -> String {
        let it = &mut self.nodes[node];
        let now = it.clock.read(self.at);
        let Some(engine) = &mut it.engine else { return String::new() };
        let mut text = String::new();
        let (roles, world) = engine.primary(&mut it.ports);
        for group in roles.groups() {
            text += &format!("{:?}\n", roles.group_status(now, group, &world));
        }
        for pair in roles.pairs() {
            text += &format!("{:?}\n", roles.pair_status(now, pair));
        }
        let (roles, _) = engine.secondary(&mut it.ports);
        for group in roles.groups() {
            text += &format!("{:?}\n", roles.group_status(now, group));
        }
        for pair in &self.pairs {
            text += &format!("{:?}\n", roles.pair_status(now, pair.id));
        }
        text
    }

    /// Calls the engine and counts what it asked for.
    fn command<R>(
        &mut self,
        node: usize,
        call: impl FnOnce(&mut longrun_copy::engine::Engine<crate::node::SimMemory>, &mut crate::node::Recorder, Now) -> R,
    ) -> R {
        let it = &mut self.nodes[node];
        let now = it.clock.read(self.at);
        let engine = it.engine.as_mut().expect("operators talk to processes that run");
        let answer = call(engine, &mut it.ports, now);
        self.refused_outs = it.ports.outs.iter().filter(|out| !matches!(out, Out::Line(_))).count();
        self.operate(node, |_, _, _| ());
        answer
    }

    /// A ticket that nobody waits for; forgotten if the request was refused.
    pub fn loose_ticket(&mut self, group: usize) -> Ticket {
        self.next_ticket += 1;
        self.loose.insert(self.next_ticket - 1, group);
        Ticket(self.next_ticket - 1)
    }

    /// Such a request was answered.
    pub fn loose_answer(
        &mut self,
        node: usize,
        group: usize,
        ticket: u64,
        answer: &Result<OperatorAnswer, OperatorError>,
    ) {
        self.resize_answered(answer);
        self.view_answered(group, ticket, answer);
        let Ok(OperatorAnswer::Suspended { at, drained }) = answer else { return };
        self.totals.operator_suspensions += 1;
        let info = &self.groups[group];
        if !drained || info.has_rotten || self.plan.primaries > 1 {
            return;
        }
        self.totals.drained_suspensions += 1;
        let last = info.history.up_to(*at).next().map(|(_, head)| head.stamp.time);
        assert!(
            last.is_none_or(|last| last <= info.reported),
            "primary {node} suspended group {} at {at} and says that all of it, up to {last:?}, is at the secondary, which \
             has it up to {}",
            info.name,
            info.reported
        );
    }

    /// The operator ends the suspensions that operators asked for.
    pub fn resync_suspended(&mut self) {
        for node in 0..self.plan.primaries {
            for group in 0..self.groups.len() {
                let Some((state, _)) = self.groups[group].suspended.get(&node) else { continue };
                if state != "PSUS" || self.nodes[node].engine.is_none() {
                    continue;
                }
                let (id, full) = (self.groups[group].id, self.chance.hits(0.2));
                let answer = self.operate(node, |engine, ports, now| {
                    let (roles, mut world) = engine.primary(ports);
                    roles.group_resync(now, id, full, &mut world)
                });
                self.say(node, format_args!("operator: group_resync at the end: {answer:?}"));
            }
        }
    }

    fn command_primary(
        &mut self,
        node: usize,
        group: usize,
        which: usize,
    ) -> (Expect, &'static str, Result<(), OperatorError>) {
        use Expect::{Either, Refusal};
        let id = self.groups[group].id;
        let config = self.primary_group_config(node, group);
        let pair = self.pairs.iter().position(|pair| pair.primary == node && pair.group == group);
        let pair = pair.expect("each primary has a pair of each group");
        let pair_config = self.primary_pair_config(pair);
        let nobody = GroupId(id.0 ^ 1);
        let ticket = self.loose_ticket(group);
        let (name, number) = (self.pairs[pair].id, self.chance.draw());
        let full = self.chance.hits(0.2);
        self.command(node, |engine, ports, now| {
            let (roles, mut world) = engine.primary(ports);
            match which {
                0 => (Refusal, "group_create twice", roles.group_create(now, config, &mut world).map(drop)),
                1 => {
                    let scope = if config.scope == Scope::Pair { Scope::Group } else { Scope::Pair };
                    let config = primary::GroupConfig { scope, overflow: Overflow::Suspend, ..config };
                    (Refusal, "group_create with another scope", roles.group_create(now, config, &mut world).map(drop))
                }
                2 => (Refusal, "group_delete with pairs", roles.group_delete(now, id, &mut world)),
                3 => (Refusal, "group_delete of nothing", roles.group_delete(now, nobody, &mut world)),
                4 => (Refusal, "pair_create twice", roles.pair_create(now, pair_config, ticket, &mut world).map(drop)),
                5 => {
                    let config = primary::PairConfig { group: nobody, name: "other".to_owned(), ..pair_config };
                    (Refusal, "pair_create in no group", roles.pair_create(now, config, ticket, &mut world).map(drop))
                }
                6 => {
                    let geometry = Geometry { blocks: 0, block_bytes: 512 };
                    let config = primary::PairConfig { geometry, name: "other".to_owned(), ..pair_config };
                    (Refusal, "pair_create of size 0", roles.pair_create(now, config, ticket, &mut world).map(drop))
                }
                7 => {
                    let id = PairId(name.0 ^ 1);
                    (Refusal, "pair_delete of nothing", roles.pair_delete(now, id, ticket, &mut world))
                }
                8 => (Refusal, "group_suspend of nothing", roles.group_suspend(now, nobody, ticket, &mut world)),
                9 => (Refusal, "group_resync of nothing", roles.group_resync(now, nobody, full, &mut world)),
                10 => {
                    (Refusal, "group_bookmark of nothing", roles.group_bookmark(now, nobody, "x", &mut world).map(drop))
                }
                11 => {
                    (Refusal, "group_bookmark without a name", roles.group_bookmark(now, id, "", &mut world).map(drop))
                }
                12 => (Either, "group_suspend", roles.group_suspend(now, id, ticket, &mut world)),
                13 => (Either, "group_resync", roles.group_resync(now, id, full, &mut world)),
                14 => {
                    let name = format!("mark{}", number % 4);
                    (Either, "group_bookmark", roles.group_bookmark(now, id, &name, &mut world).map(drop))
                }
                _ => {
                    let pair = (number % 3 == 0).then_some(name);
                    (Either, "group_verify", roles.group_verify(now, id, pair, number % 2 == 0, &mut world))
                }
            }
        })
    }

    fn command_secondary(
        &mut self,
        node: usize,
        group: usize,
        which: usize,
    ) -> (Expect, &'static str, Result<(), OperatorError>) {
        use Expect::Refusal;
        let id = self.groups[group].id;
        let config = self.secondary_group_config(group);
        let pair = self.pairs.iter().position(|pair| pair.group == group).expect("each group has a pair");
        let pair_config = self.secondary_pair_config(pair);
        let name = self.pairs[pair].id;
        let nobody = GroupId(id.0 ^ 1);
        let ticket = self.loose_ticket(group);
        // A takeover that has begun is answered, whoever asks again.
        let again = if self.groups[group].takeover_begun { Expect::Either } else { Refusal };
        let fenced = TakeoverConsent { old_primary_fenced: true, accept_split: false };
        self.command(node, |engine, ports, now| {
            let (roles, mut world) = engine.secondary(ports);
            match which {
                0 | 1 => (Refusal, "group_create twice", roles.group_create(now, config, &mut world).map(drop)),
                2 => {
                    let geometry = Geometry { blocks: 3, block_bytes: 512 };
                    let (name, journal) = ("other".to_owned(), VolumeId(9000));
                    let config = secondary::GroupConfig { name, journal, journal_geometry: geometry, ..config };
                    let answer = roles.group_create(now, config, &mut world).map(drop);
                    (Refusal, "group_create with a tiny journal", answer)
                }
                3 | 4 => (Refusal, "group_delete with pairs", roles.group_delete(now, id, ticket, &mut world)),
                5 => (Refusal, "group_delete of nothing", roles.group_delete(now, nobody, ticket, &mut world)),
                6 | 7 => {
                    (Refusal, "pair_create twice", roles.pair_create(now, pair_config, ticket, &mut world).map(drop))
                }
                8 => {
                    let (group, name) = ("nothing".to_owned(), "other".to_owned());
                    let config = secondary::PairConfig { group, name, initial: Initial::Empty, ..pair_config };
                    (Refusal, "pair_create in no group", roles.pair_create(now, config, ticket, &mut world).map(drop))
                }
                9 => {
                    let id = PairId(name.0 ^ 1);
                    (Refusal, "pair_delete of nothing", roles.pair_delete(now, id, ticket, &mut world))
                }
                10 | 11 => {
                    let none = TakeoverConsent::default();
                    let answer = roles.group_takeover(now, id, none, TakeoverAt::Newest, ticket, &mut world);
                    (again, "group_takeover without consent", answer)
                }
                12 => {
                    let answer = roles.group_takeover(now, nobody, fenced, TakeoverAt::Newest, ticket, &mut world);
                    (Refusal, "group_takeover of nothing", answer)
                }
                13 | 14 => {
                    let at = TakeoverAt::Time(Time(u64::MAX));
                    let answer = roles.group_takeover(now, id, fenced, at, ticket, &mut world);
                    (again, "group_takeover at a time to come", answer)
                }
                _ => {
                    let at = TakeoverAt::Bookmark("nobody gave this name".to_owned());
                    let answer = roles.group_takeover(now, id, fenced, at, ticket, &mut world);
                    (again, "group_takeover at no bookmark", answer)
                }
            }
        })
    }
}
