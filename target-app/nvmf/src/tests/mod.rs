//! The host's machines against the target's, in memory.

mod admin;
mod ana;
mod connect;
mod data;
mod hostile;
mod world;

use crate::{
    host::{self, Command, Completion, ControllerDescription, ControllerEvent, Queue, QueueEvent},
    spec::Status,
};
use world::World;

/// Brings a controller up on core 0.
fn bring_up(world: &mut World, options: host::QueueOptions) -> (u64, host::Controller, ControllerDescription) {
    let id = world.accept(0);
    let mut controller = host::Controller::new(options, 4);
    world.run(&mut [(id, &mut controller)]);
    match controller.poll() {
        Some(ControllerEvent::Ready(description)) => (id, controller, description),
        other => panic!("not ready: {other:?}"),
    }
}

/// Connects I/O queue `qid` on core `core`.
fn io_queue(
    world: &mut World,
    admin: &host::Controller,
    description: &ControllerDescription,
    qid: u16,
    core: usize,
) -> (u64, Queue) {
    let id = world.accept(core);
    let options = admin.options().io(qid, description.entries_max, description.cntlid, description.in_capsule_bytes);
    let mut queue = Queue::new(options);
    world.run(&mut [(id, &mut queue)]);
    assert_eq!(queue.poll(), Some(QueueEvent::Connected { cntlid: description.cntlid }));
    (id, queue)
}

/// One admin connection and one I/O queue.
fn connected(world: &mut World) -> (u64, host::Controller, u64, Queue) {
    let (admin_id, admin, description) = bring_up(world, world::admin_options());
    let (id, queue) = io_queue(world, &admin, &description, 1, 0);
    (admin_id, admin, id, queue)
}

/// Runs one command to its end.
fn execute(world: &mut World, id: u64, queue: &mut Queue, command: Command) -> Completion {
    queue.submit(command, 5).unwrap();
    world.run(&mut [(id, queue)]);
    done(queue)
}

fn done(queue: &mut Queue) -> Completion {
    match queue.poll() {
        Some(QueueEvent::Done(completion)) => completion,
        other => panic!("no completion: {other:?}"),
    }
}

/// Runs one admin command to its end.
fn execute_admin(world: &mut World, id: u64, admin: &mut host::Controller, command: Command) -> Completion {
    admin.submit(command, 6).unwrap();
    world.run(&mut [(id, admin)]);
    match admin.poll() {
        Some(ControllerEvent::Done(completion)) => completion,
        other => panic!("no completion: {other:?}"),
    }
}

fn status(world: &mut World, id: u64, queue: &mut Queue, command: Command) -> Status {
    execute(world, id, queue, command).status
}
