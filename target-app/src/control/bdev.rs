//! Block devices.

use super::framework::config_call;
use super::{Caller, Control, State, catalog_error};
use longrun_bdev::IoType;
use longrun_bdev::catalog::{CatalogError, Created, Entry, Holder, Kind, Spec};
use longrun_bdev::delay::Latencies;
use longrun_bdev::device::{Control as DeviceControl, Device};
use longrun_bdev::error::{Fault, Injection};
use longrun_bdev::layer::TakeError;
use longrun_bdev::stats::{BdevStats, KindStats};
use longrun_rpc::RpcError;
use longrun_rpc::config::ConfigCall;
use longrun_rpc::methods::bdev::{
    BdevDelayCreate, BdevDelayDelete, BdevErrorCreate, BdevErrorDelete, BdevErrorInjectError, BdevGetBdevs,
    BdevGetIostat, BdevInfo, BdevIostat, BdevMallocCreate, BdevMallocDelete, BdevNullCreate, BdevNullDelete,
    BdevUringCreate, BdevUringDelete, ChannelIostat, ErrorIoType, ErrorType, IoCounters, Iostat, ResetMode,
    SupportedIoTypes,
};
use std::time::Duration;
use tokio::sync::MutexGuard;

/// A bdev of the configuration whose medium could not be had.
pub struct Absent {
    /// Its name.
    pub name: String,
    /// What makes it.
    pub call: ConfigCall,
    /// Why it is missing.
    pub reason: String,
}

impl State {
    /// Why a configured bdev is missing, if it is.
    pub(super) fn absent_reason(&self, bdev: &str) -> Option<String> {
        self.absent.iter().find(|absent| absent.name == bdev).map(|absent| absent.reason.clone())
    }
}

/// How long a deletion waits for requests in flight.
const DRAIN_TRIES: u32 = 100;
const DRAIN_PAUSE: Duration = Duration::from_millis(50);
/// Statistics are in nanoseconds, whatever the counter's own rate.
pub(super) const TICK_RATE_HZ: u64 = 1_000_000_000;

impl Control {
    pub(super) async fn bdev_malloc_create(&self, call: &BdevMallocCreate) -> Result<String, RpcError> {
        self.create_bdev(Spec::Malloc {
            name: call.name.as_ref().map(|name| name.as_str().to_owned()),
            num_blocks: call.num_blocks.get(),
            block_size: call.block_size.bytes(),
            uuid: call.uuid,
        })
        .await
    }

    pub(super) async fn bdev_null_create(&self, call: &BdevNullCreate) -> Result<String, RpcError> {
        self.create_bdev(Spec::Null {
            name: call.name.as_str().to_owned(),
            num_blocks: call.num_blocks.get(),
            block_size: call.block_size.bytes(),
            uuid: call.uuid,
        })
        .await
    }

    pub(super) async fn bdev_uring_create(&self, call: &BdevUringCreate, caller: Caller) -> Result<String, RpcError> {
        let spec = Spec::Uring {
            name: call.name.as_str().to_owned(),
            filename: call.filename.clone(),
            block_size: call.block_size.map(|size| size.bytes()),
            uuid: call.uuid,
        };
        self.create_or_miss(spec, config_call(call), call.name.as_str(), None, caller).await
    }

    pub(super) async fn bdev_error_create(&self, call: &BdevErrorCreate, caller: Caller) -> Result<String, RpcError> {
        let spec = Spec::Error { base_name: call.base_name.clone(), uuid: call.uuid };
        let name = format!("EE_{}", call.base_name);
        self.create_or_miss(spec, config_call(call), &name, Some(&call.base_name), caller).await
    }

    pub(super) async fn bdev_delay_create(&self, call: &BdevDelayCreate, caller: Caller) -> Result<String, RpcError> {
        let spec = Spec::Delay {
            name: call.name.as_str().to_owned(),
            base_bdev_name: call.base_bdev_name.clone(),
            latencies: Latencies {
                avg_read_us: call.avg_read_latency,
                p99_read_us: call.p99_read_latency,
                avg_write_us: call.avg_write_latency,
                p99_write_us: call.p99_write_latency,
            },
            uuid: call.uuid,
        };
        self.create_or_miss(spec, config_call(call), call.name.as_str(), Some(&call.base_bdev_name), caller).await
    }

    async fn create_bdev(&self, spec: Spec) -> Result<String, RpcError> {
        let mut state = self.state().await;
        let home = self.next_home(&mut state);
        let created = state.catalog.create(spec, home).map_err(catalog_error)?;
        Ok(self.install(created).await)
    }

    /// As [`Control::create_bdev`]. At a start a device whose medium cannot be had does not keep all others from their
    /// hosts: it stays configured and missing, with its reason in the log, until it is created or deleted.
    async fn create_or_miss(
        &self,
        spec: Spec,
        call: ConfigCall,
        name: &str,
        base: Option<&str>,
        caller: Caller,
    ) -> Result<String, RpcError> {
        let mut state = self.state().await;
        let home = self.next_home(&mut state);
        match state.catalog.create(spec, home) {
            Ok(created) => {
                state.absent.retain(|absent| absent.name != name);
                Ok(self.install(created).await)
            }
            Err(error) => {
                let is_missing = match &error {
                    CatalogError::Open { .. } => true,
                    _ => base.is_some_and(|base| state.absent_reason(base).is_some()),
                };
                if caller == Caller::Operator || !is_missing {
                    return Err(catalog_error(error));
                }
                let reason = base.and_then(|base| state.absent_reason(base)).unwrap_or_else(|| error.to_string());
                tracing::warn!("bdev {name} is missing: {reason}; bring its medium back and start again, or delete it");
                state.absent.push(Absent { name: name.to_owned(), call, reason });
                Ok(name.to_owned())
            }
        }
    }

    fn next_home(&self, state: &mut State) -> u32 {
        state.next_home += 1;
        ((state.next_home - 1) % self.cores.len()) as u32
    }

    async fn install(&self, created: Created) -> String {
        if let Some(notice) = &created.notice {
            tracing::warn!(bdev = created.name, "{notice}");
        }
        let device = created.device;
        self.reactor(created.home as usize).call(move |reactor| reactor.core().0.install(device)).await;
        created.name
    }

    pub(super) async fn bdev_malloc_delete(&self, call: &BdevMallocDelete) -> Result<bool, RpcError> {
        self.delete_bdev(&call.name, Kind::Malloc).await
    }

    pub(super) async fn bdev_null_delete(&self, call: &BdevNullDelete) -> Result<bool, RpcError> {
        self.delete_bdev(&call.name, Kind::Null).await
    }

    pub(super) async fn bdev_uring_delete(&self, call: &BdevUringDelete) -> Result<bool, RpcError> {
        self.delete_bdev(&call.name, Kind::Uring).await
    }

    pub(super) async fn bdev_error_delete(&self, call: &BdevErrorDelete) -> Result<bool, RpcError> {
        self.delete_bdev(&call.name, Kind::Error).await
    }

    pub(super) async fn bdev_delay_delete(&self, call: &BdevDelayDelete) -> Result<bool, RpcError> {
        self.delete_bdev(&call.name, Kind::Delay).await
    }

    async fn delete_bdev(&self, name: &str, kind: Kind) -> Result<bool, RpcError> {
        let mut state = self.state().await;
        if state.catalog.named(name).is_err() && state.absent_reason(name).is_some() {
            state.absent.retain(|absent| absent.name != name);
            return Ok(true);
        }
        drop(state);
        drop(self.take_and_remove(self.state().await, name, kind).await?);
        Ok(true)
    }

    /// Takes a bdev that nobody holds from its core, and forgets it. Its last requests may take their medium's time: others
    /// are served meanwhile, while the bdev is its deletion's.
    pub(super) async fn take_and_remove<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        name: &str,
        kind: Kind,
    ) -> Result<MutexGuard<'a, State>, RpcError> {
        let entry = state.catalog.check_delete(name, Some(kind)).map_err(catalog_error)?.clone();
        state.catalog.claim(&entry.name, Holder::Deletion).map_err(catalog_error)?;
        drop(state);
        let taken = self.take_device(&entry).await;
        let mut state = self.state().await;
        state.catalog.release(entry.id, &Holder::Deletion);
        drop(taken?);
        state.catalog.remove(entry.id);
        Ok(state)
    }

    /// Takes a device from its core once its requests have ended.
    pub(super) async fn take_device(&self, entry: &Entry) -> Result<Device, RpcError> {
        let id = entry.id;
        self.take(entry, move |core| core.take(id)).await
    }

    /// Takes a device and all that it stands on, bases last, once their requests have ended.
    pub(super) async fn take_stack(&self, entry: &Entry) -> Result<Vec<Device>, RpcError> {
        let id = entry.id;
        self.take(entry, move |core| core.take_stack(id)).await
    }

    async fn take<T: Send + 'static>(
        &self,
        entry: &Entry,
        take: impl Fn(&mut longrun_bdev::Core) -> Result<T, TakeError> + Clone + Send + 'static,
    ) -> Result<T, RpcError> {
        for _ in 0..DRAIN_TRIES {
            let take = take.clone();
            match self.reactor(entry.home as usize).call(move |reactor| take(reactor.core().0)).await {
                Ok(taken) => return Ok(taken),
                Err(TakeError::Busy { .. }) => tokio::time::sleep(DRAIN_PAUSE).await,
                Err(error) => return Err(RpcError::internal(error.to_string())),
            }
        }
        Err(RpcError::errno(
            libc::EBUSY,
            format!(
                "bdev {} still has requests in flight after 5 s; is its medium answering? Try again later",
                entry.name
            ),
        ))
    }

    pub(super) async fn bdev_error_inject_error(&self, call: &BdevErrorInjectError) -> Result<bool, RpcError> {
        let state = self.state().await;
        let entry = state.catalog.named(&call.name).map_err(catalog_error)?;
        if entry.kind != Kind::Error {
            return Err(RpcError::invalid_params(format!(
                "bdev {} is a {} bdev; errors are injected into error bdevs (bdev_error_create)",
                entry.name,
                entry.kind.name()
            )));
        }
        let (id, control) = (entry.id, injection(call));
        self.reactor(entry.home as usize)
            .call(move |reactor| {
                let (core, uring, now) = reactor.core();
                core.control(now, uring, id, control)
            })
            .await
            .map_err(|error| RpcError::invalid_params(error.to_string()))?;
        Ok(true)
    }

    pub(super) async fn bdev_get_bdevs(&self, call: &BdevGetBdevs) -> Result<Vec<BdevInfo>, RpcError> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(call.timeout.unwrap_or(0));
        loop {
            let state = self.state().await;
            let found = match &call.name {
                None => Ok(state.catalog.iter().map(|entry| info(&state.catalog, entry)).collect()),
                Some(name) => state.catalog.named(name).map(|entry| vec![info(&state.catalog, entry)]),
            };
            drop(state);
            // With a time-out the caller waits for the bdev to appear, as SPDK's scripts do.
            match found {
                Err(_) if tokio::time::Instant::now() < deadline => tokio::time::sleep(DRAIN_PAUSE).await,
                found => return found.map_err(catalog_error),
            }
        }
    }

    pub(super) async fn bdev_get_iostat(&self, call: &BdevGetIostat) -> Result<Iostat, RpcError> {
        let state = self.state().await;
        let names: Option<Vec<&String>> = match (&call.name, &call.names) {
            (Some(name), _) => Some(vec![name]),
            (None, Some(names)) => Some(names.iter().collect()),
            (None, None) => None,
        };
        let entries: Vec<&Entry> = match names {
            Some(names) => names
                .into_iter()
                .map(|name| state.catalog.named(name))
                .collect::<Result<_, _>>()
                .map_err(catalog_error)?,
            None => state.catalog.iter().collect(),
        };
        let reset = match call.reset_mode.unwrap_or_default() {
            ResetMode::None => longrun_bdev::stats::ResetMode::None,
            ResetMode::Maxmin => longrun_bdev::stats::ResetMode::MaxMin,
            ResetMode::All => longrun_bdev::stats::ResetMode::All,
        };
        let per_channel = call.per_channel.unwrap_or(false);
        let mut iostat = Iostat {
            tick_rate: TICK_RATE_HZ,
            ticks: longrun_hal::clock::mono_ns(),
            bdevs: Vec::new(),
            name: None,
            channels: Vec::new(),
        };
        for entry in entries {
            let id = entry.id;
            let stats = self.reactor(entry.home as usize).call(move |reactor| reactor.core().0.stats(id, reset)).await;
            let counters = counters(&stats.unwrap_or_default());
            if per_channel {
                iostat.name = Some(entry.name.clone());
                iostat.channels.push(ChannelIostat { core: entry.home, counters });
            } else {
                iostat.bdevs.push(BdevIostat { name: entry.name.clone(), counters });
            }
        }
        Ok(iostat)
    }
}

fn injection(call: &BdevErrorInjectError) -> DeviceControl {
    let fault = match call.error_type {
        ErrorType::Clear => return DeviceControl::ClearInjections,
        ErrorType::Failure => Fault::Failure,
        ErrorType::Pending => Fault::Pending,
        ErrorType::Nomem => Fault::NoMemory,
    };
    let io_type = match call.io_type {
        ErrorIoType::Clear => return DeviceControl::ClearInjections,
        ErrorIoType::All => None,
        ErrorIoType::Read => Some(IoType::Read),
        ErrorIoType::Write => Some(IoType::Write),
        ErrorIoType::Flush => Some(IoType::Flush),
        ErrorIoType::Unmap => Some(IoType::Unmap),
        ErrorIoType::WriteZeroes => Some(IoType::WriteZeroes),
    };
    DeviceControl::Inject(Injection { io_type, fault, count: call.count() })
}

fn info(catalog: &longrun_bdev::Catalog, entry: &Entry) -> BdevInfo {
    BdevInfo {
        name: entry.name.clone(),
        aliases: vec![entry.uuid.to_string()],
        product_name: entry.kind.product_name().to_owned(),
        block_size: entry.geometry.block_bytes,
        num_blocks: entry.geometry.blocks,
        uuid: entry.uuid,
        claimed: entry.holder.is_some(),
        claimed_by: entry.holder.as_ref().map(ToString::to_string),
        zoned: false,
        supported_io_types: SupportedIoTypes {
            read: entry.kind.supports(IoType::Read),
            write: entry.kind.supports(IoType::Write),
            unmap: entry.kind.supports(IoType::Unmap),
            flush: entry.kind.supports(IoType::Flush),
            write_zeroes: entry.kind.supports(IoType::WriteZeroes),
            ..SupportedIoTypes::default()
        },
        driver_specific: catalog.driver_specific(entry),
    }
}

fn counters(stats: &BdevStats) -> IoCounters {
    let of = |kind| stats.of(kind);
    let (read, write, unmap) = (of(IoType::Read), of(IoType::Write), of(IoType::Unmap));
    let ops = |kind: &KindStats| kind.ops;
    IoCounters {
        bytes_read: read.bytes,
        num_read_ops: ops(read),
        bytes_written: write.bytes,
        num_write_ops: ops(write),
        bytes_unmapped: unmap.bytes,
        num_unmap_ops: ops(unmap),
        num_flush_ops: ops(of(IoType::Flush)),
        num_write_zeroes_ops: ops(of(IoType::WriteZeroes)),
        num_failed_ops: stats.failed_ops,
        read_latency_ticks: read.latency_ns,
        max_read_latency_ticks: read.latency_ns_max,
        min_read_latency_ticks: read.latency_ns_min,
        write_latency_ticks: write.latency_ns,
        max_write_latency_ticks: write.latency_ns_max,
        min_write_latency_ticks: write.latency_ns_min,
        unmap_latency_ticks: unmap.latency_ns,
        max_unmap_latency_ticks: unmap.latency_ns_max,
        min_unmap_latency_ticks: unmap.latency_ns_min,
    }
}
