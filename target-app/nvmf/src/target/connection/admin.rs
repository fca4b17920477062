//! Admin commands (Base 2.0, section 5).

use super::{Connection, Role, identify, log};
use crate::{
    spec::{Sqe, Status, opcode},
    target::{
        Ports,
        controller::{AERS_MAX, Controller},
    },
};

/// Feature identifiers (Base 2.0, figure 317).
mod feature {
    pub(super) const ARBITRATION: u8 = 0x01;
    pub(super) const POWER: u8 = 0x02;
    pub(super) const TEMPERATURE: u8 = 0x04;
    pub(super) const ERROR_RECOVERY: u8 = 0x05;
    pub(super) const WRITE_CACHE: u8 = 0x06;
    pub(super) const QUEUES: u8 = 0x07;
    pub(super) const INTERRUPT_COALESCING: u8 = 0x08;
    pub(super) const INTERRUPT_VECTOR: u8 = 0x09;
    pub(super) const WRITE_ATOMICITY: u8 = 0x0a;
    pub(super) const EVENTS: u8 = 0x0b;
    pub(super) const KEEP_ALIVE: u8 = 0x0f;
    pub(super) const HOST_BEHAVIOR: u8 = 0x16;
}

/// The features a host can ask for; the feature effects log lists them.
pub(super) const FEATURES: [u8; 12] = [
    feature::ARBITRATION,
    feature::POWER,
    feature::TEMPERATURE,
    feature::ERROR_RECOVERY,
    feature::WRITE_CACHE,
    feature::QUEUES,
    feature::INTERRUPT_COALESCING,
    feature::INTERRUPT_VECTOR,
    feature::WRITE_ATOMICITY,
    feature::EVENTS,
    feature::KEEP_ALIVE,
    feature::HOST_BEHAVIOR,
];

const HOST_BEHAVIOR_BYTES: usize = 512;

/// An admin command's answer.
enum Answer {
    /// Completion dword 0.
    Result(u32),
    /// Data for the host.
    Page(Vec<u8>),
    /// None yet.
    Held,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Connection<B> {
    pub(super) fn admin<P: Ports<Buf = B>>(
        &mut self,
        now_ns: u64,
        slot: u16,
        sqe: &Sqe,
        data: Option<&[u8]>,
        ports: &mut P,
    ) {
        let answer = match self.answer(now_ns, slot, sqe, data, ports) {
            Ok(answer) => answer,
            Err(status) => return self.complete(slot, 0, status, ports),
        };
        match answer {
            Answer::Held => {}
            Answer::Result(result) => {
                self.complete(slot, u64::from(result), Status::SUCCESS, ports);
            }
            Answer::Page(page) => {
                if sqe.sgl.length.get() as usize != page.len() {
                    return self.complete(slot, 0, Status::DATA_SGL_LENGTH_INVALID.dnr(), ports);
                }
                let Some(mut buf) = ports.alloc(page.len()) else { return self.park(now_ns, slot) };
                if let Some(to) = buf.as_mut().get_mut(..page.len()) {
                    to.copy_from_slice(&page);
                }
                self.complete_with(slot, buf, page.len() as u32, ports);
                // Retain Asynchronous Event (Base 2.0, 5.16): without it the event may come again.
                if sqe.opcode == opcode::GET_LOG_PAGE
                    && !log::retains_event(sqe)
                    && let Role::Admin(controller) = &mut self.role
                {
                    controller.log_was_read(log::identifier(sqe));
                }
            }
        }
        self.report_events(ports);
    }

    fn answer<P: Ports<Buf = B>>(
        &mut self,
        now_ns: u64,
        slot: u16,
        sqe: &Sqe,
        data: Option<&[u8]>,
        ports: &mut P,
    ) -> Result<Answer, Status> {
        let reached = self.options.local;
        let listener = self.options.listener;
        let (Role::Admin(controller), Some(queue)) = (&mut self.role, &self.queue) else {
            return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
        };
        if sqe.opcode == opcode::KEEP_ALIVE {
            // The capsule restarted the timer.
            return Ok(Answer::Result(0));
        }
        if !controller.is_ready() {
            return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
        }
        // What a discovery controller serves (Base 2.0, figure 22).
        let for_discovery = matches!(
            sqe.opcode,
            opcode::IDENTIFY
                | opcode::GET_LOG_PAGE
                | opcode::SET_FEATURES
                | opcode::GET_FEATURES
                | opcode::ASYNC_EVENT_REQUEST
        );
        if controller.discovery && !for_discovery {
            return Err(Status::INVALID_OPCODE.dnr());
        }
        match sqe.opcode {
            opcode::IDENTIFY => {
                let config = ports.core().config();
                identify::page(sqe, controller, &queue.subsystem, &config.limits).map(Answer::Page)
            }
            opcode::GET_LOG_PAGE => {
                let config = ports.core().config();
                log::page(sqe, controller, &queue.subsystem, config, reached, listener).map(Answer::Page)
            }
            opcode::GET_FEATURES => get_feature(sqe, controller),
            opcode::SET_FEATURES => set_feature(now_ns, sqe, data, controller).map(Answer::Result),
            opcode::ASYNC_EVENT_REQUEST => {
                if controller.aers.len() >= AERS_MAX {
                    return Err(Status::AER_LIMIT_EXCEEDED.dnr());
                }
                controller.aers.push(slot);
                Ok(Answer::Held)
            }
            // The command was not aborted: bit 0. What is with a block device can't be taken back.
            opcode::ABORT => Ok(Answer::Result(1)),
            _ => Err(Status::INVALID_OPCODE.dnr()),
        }
    }
}

/// Get Features (Base 2.0, 5.15).
fn get_feature(sqe: &Sqe, controller: &Controller) -> Result<Answer, Status> {
    const CHANGEABLE: u32 = 1 << 2;
    let id = sqe.dword(10) as u8;
    let features = match sqe.dword(10) >> 8 & 7 {
        0 => &controller.features,
        // Nothing is saved: default and saved values are the same.
        1 | 2 => &super::super::controller::Features::DEFAULT,
        3 if FEATURES.contains(&id) => {
            let changeable = !matches!(id, feature::WRITE_CACHE | feature::POWER);
            return Ok(Answer::Result(if changeable { CHANGEABLE } else { 0 }));
        }
        _ => return Err(Status::INVALID_FIELD.dnr()),
    };
    Ok(Answer::Result(match id {
        feature::ARBITRATION => features.arbitration,
        feature::POWER => 0,
        // Only the over-temperature threshold of the composite sensor has a value.
        feature::TEMPERATURE if sqe.dword(11) & 0x003f_0000 == 0 => features.temperature_threshold,
        feature::TEMPERATURE => 0,
        feature::ERROR_RECOVERY => features.error_recovery,
        feature::WRITE_CACHE => 1,
        feature::QUEUES if !controller.discovery => controller.queues_dword(),
        feature::INTERRUPT_COALESCING => features.interrupt_coalescing,
        feature::INTERRUPT_VECTOR => sqe.dword(11) & 0xffff,
        feature::WRITE_ATOMICITY => features.write_atomicity,
        feature::EVENTS => features.events,
        feature::KEEP_ALIVE => controller.keep_alive_ms(),
        feature::HOST_BEHAVIOR => {
            let mut page = vec![0; HOST_BEHAVIOR_BYTES];
            if let Some(first) = page.first_mut() {
                *first = features.host_behavior;
            }
            return Ok(Answer::Page(page));
        }
        _ => return Err(Status::INVALID_FIELD.dnr()),
    }))
}

/// Set Features (Base 2.0, 5.27): completion dword 0.
fn set_feature(now_ns: u64, sqe: &Sqe, data: Option<&[u8]>, controller: &mut Controller) -> Result<u32, Status> {
    const SAVE: u32 = 1 << 31;
    if sqe.dword(10) & SAVE != 0 {
        return Err(Status::FEATURE_NOT_SAVEABLE.dnr());
    }
    let value = sqe.dword(11);
    match sqe.dword(10) as u8 {
        feature::ARBITRATION => controller.features.arbitration = value,
        feature::POWER if value & 0x1f == 0 => {}
        feature::TEMPERATURE => {
            if value & 0x003f_0000 == 0 {
                controller.features.temperature_threshold = value & 0xffff;
            }
        }
        feature::ERROR_RECOVERY => controller.features.error_recovery = value,
        feature::WRITE_CACHE if value & 1 != 0 => {}
        feature::WRITE_CACHE => return Err(Status::FEATURE_NOT_CHANGEABLE.dnr()),
        feature::QUEUES if !controller.discovery => {
            // 65535 is not a count less one (Base 2.0, 5.27.1.5).
            if value & 0xffff == 0xffff || value >> 16 == 0xffff {
                return Err(Status::INVALID_FIELD.dnr());
            }
            if !controller.queues().is_empty() {
                return Err(Status::COMMAND_SEQUENCE_ERROR.dnr());
            }
            return Ok(controller.grant_queues(value));
        }
        feature::INTERRUPT_COALESCING => controller.features.interrupt_coalescing = value,
        feature::INTERRUPT_VECTOR => {}
        feature::WRITE_ATOMICITY => controller.features.write_atomicity = value,
        feature::EVENTS => controller.features.events = value,
        feature::KEEP_ALIVE => controller.set_keep_alive(now_ns, value),
        feature::HOST_BEHAVIOR => match data {
            Some([first, ..]) if data.is_some_and(|data| data.len() >= HOST_BEHAVIOR_BYTES) => {
                controller.features.host_behavior = *first;
            }
            _ => return Err(Status::DATA_SGL_LENGTH_INVALID.dnr()),
        },
        _ => return Err(Status::INVALID_FIELD.dnr()),
    }
    Ok(0)
}
