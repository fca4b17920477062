//! `longrun group`.

use longrun_rpc::Client;
use longrun_rpc::methods::group::{
    GroupBookmark, GroupCreate, GroupDelete, GroupGet, GroupResync, GroupSuspend, GroupTakeover, GroupTestStart,
    GroupTestStop, GroupVerify, OldPrimary,
};
use longrun_rpc::methods::role::{GroupFailback, GroupSwap};
use longrun_rpc::types::{Name, TakeoverPoint};

use super::args::{GroupCreateArgs, OldPrimaryFlag};
use super::{CliError, answer, table};

pub(super) fn list(client: &mut Client, json: bool) -> Result<String, CliError> {
    Ok(answer(&client.invoke(&GroupGet::default())?, json, |groups| table::groups(groups)))
}

pub(super) fn get(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let groups = client.invoke(&GroupGet { name: Some(name.to_owned()) })?;
    Ok(answer(&groups, json, |groups| groups.iter().map(table::group).collect()))
}

pub(super) fn create(client: &mut Client, args: &GroupCreateArgs, json: bool) -> Result<String, CliError> {
    let name = client.invoke(&GroupCreate {
        name: args.name.clone(),
        role: args.role.into(),
        link: None,
        links: Some(args.link.clone()),
        core: args.core,
        sequence_scope: args.scope.map(Into::into),
        journal: args.journal.clone(),
        throttle_ms_max: args.throttle_ms_max,
        buffer_bytes: args.buffer.map(|size| size.0),
        overflow: args.overflow.map(Into::into),
        spill: args.spill.clone(),
        copy_mib_per_s: args.copy_mib_per_s,
        overlay: args.overlay.clone(),
        apply_delay_s: args.apply_delay_s,
    })?;
    Ok(answer(&name, json, |name| format!("group {name} made; longrun pair create {name} ... puts volumes into it\n")))
}

pub(super) fn delete(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let deleted = client.invoke(&GroupDelete { name: name.to_owned() })?;
    Ok(answer(&deleted, json, |_| format!("group {name} deleted\n")))
}

pub(super) fn suspend(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let suspended = client.invoke(&GroupSuspend { name: name.to_owned() })?;
    Ok(answer(&suspended, json, |suspended| {
        let at = table::moment(suspended.at_ns);
        let there = if suspended.drained {
            "the secondary has everything up to then".to_owned()
        } else {
            "the secondary could not be reached in time and stays at an earlier moment; what it lacks is marked"
                .to_owned()
        };
        format!("group {name} is suspended at {at}: {there}\nlongrun group resync {name} goes on\n")
    }))
}

pub(super) fn resync(client: &mut Client, name: &str, full: bool, json: bool) -> Result<String, CliError> {
    let begun = client.invoke(&GroupResync { name: name.to_owned(), full: full.then_some(true) })?;
    Ok(answer(&begun, json, |_| {
        format!("the resync of group {name} begins; longrun group watch {name} shows how far it is\n")
    }))
}

pub(super) fn bookmark(client: &mut Client, name: &str, bookmark: &Name, json: bool) -> Result<String, CliError> {
    let made = client.invoke(&GroupBookmark { name: name.to_owned(), bookmark: bookmark.clone() })?;
    Ok(answer(&made, json, |made| {
        format!("bookmark {} of group {name} is {}\n", made.name, table::moment(made.time_ns))
    }))
}

pub(super) fn verify(
    client: &mut Client,
    name: &str,
    pair: Option<&str>,
    repair: bool,
    json: bool,
) -> Result<String, CliError> {
    let begun = client.invoke(&GroupVerify {
        name: name.to_owned(),
        pair: pair.map(str::to_owned),
        repair: repair.then_some(true),
    })?;
    Ok(answer(&begun, json, |_| {
        format!("the verify of group {name} begins; longrun group get {name} shows how far it is and what it finds\n")
    }))
}

pub(super) fn takeover(
    client: &mut Client,
    name: &str,
    old_primary: Option<OldPrimaryFlag>,
    accept_split: bool,
    at: Option<TakeoverPoint>,
    json: bool,
) -> Result<String, CliError> {
    let certificate = client.invoke(&GroupTakeover {
        name: name.to_owned(),
        old_primary: old_primary.map(|OldPrimaryFlag::Fenced| OldPrimary::Fenced),
        accept_split: accept_split.then_some(true),
        at,
    })?;
    Ok(answer(&certificate, json, table::certificate))
}

pub(super) fn test_start(
    client: &mut Client,
    name: &str,
    store: &str,
    at: Option<TakeoverPoint>,
    json: bool,
) -> Result<String, CliError> {
    let volumes = client.invoke(&GroupTestStart { name: name.to_owned(), store: store.to_owned(), at })?;
    Ok(answer(&volumes, json, |volumes| table::test_volumes(name, volumes)))
}

pub(super) fn test_stop(client: &mut Client, name: &str, json: bool) -> Result<String, CliError> {
    let stopped = client.invoke(&GroupTestStop { name: name.to_owned() })?;
    Ok(answer(&stopped, json, |_| format!("the test of group {name} is over; its store is free\n")))
}

pub(super) fn failback(
    client: &mut Client,
    name: &str,
    discard_generation: Option<u64>,
    discard_id: Option<&str>,
    journal: Option<&str>,
    json: bool,
) -> Result<String, CliError> {
    let is_old_primary = discard_generation.is_some();
    let (journal, discard_id) = (journal.map(str::to_owned), discard_id.map(str::to_owned));
    let call = GroupFailback { name: name.to_owned(), journal, discard_generation, discard_id };
    let changed = client.invoke(&call)?;
    Ok(answer(&changed, json, |changed| match is_old_primary {
        true => format!(
            "group {name} is secondary here, of generation {}; longrun group failback {name} at the new primary brings it \
             up to date\n",
            changed.generation
        ),
        false => format!("group {name} is on its way back; longrun group watch {name} shows how far it is\n"),
    }))
}

pub(super) fn swap(
    client: &mut Client,
    name: &str,
    journal: Option<&str>,
    abandon: bool,
    discard_generation: Option<u64>,
    json: bool,
) -> Result<String, CliError> {
    let call = GroupSwap {
        name: name.to_owned(),
        journal: journal.map(str::to_owned),
        abandon: abandon.then_some(true),
        discard_generation,
    };
    let ended = client.invoke(&call)?;
    Ok(answer(&ended, json, |ended| match abandon {
        true => format!(
            "the swap of group {name} is abandoned: hosts are served here, generation {}; the other site is resynced when \
             it is back\n",
            ended.generation
        ),
        false => {
            format!("group {name} is secondary here; the other site is its primary, generation {}\n", ended.generation)
        }
    }))
}
