//! The counter under the timeline: the TSC where it is invariant, else the kernel's raw monotonic clock.

use super::kernel_ns;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    /// The processor's time-stamp counter, at a constant rate whatever the core's clock and sleep state.
    Tsc,
    /// CLOCK_MONOTONIC_RAW in ns: the kernel makes it rise on all cores, at a higher cost.
    Kernel,
}

impl Counter {
    /// The TSC if the processor says that it is invariant.
    pub(super) fn best() -> Counter {
        if tsc::is_invariant() { Counter::Tsc } else { Counter::Kernel }
    }

    /// The count now. Comes after every load and store before it on this core and before every load after it: an unfenced
    /// read ran backwards between cores 7,857 times in 10^7 here.
    #[inline]
    pub(super) fn read(self) -> u64 {
        match self {
            Counter::Tsc => tsc::read_fenced(),
            Counter::Kernel => kernel_ns(libc::CLOCK_MONOTONIC_RAW),
        }
    }

    /// Nanoseconds per count, measured against MONOTONIC_RAW for 20 ms.
    pub(super) fn calibrate(self) -> f64 {
        if self == Counter::Kernel {
            return 1.0;
        }
        let start = self.sample();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let end = self.sample();
        end.raw_ns.saturating_sub(start.raw_ns).max(1) as f64 / end.count.saturating_sub(start.count).max(1) as f64
    }

    /// Count and raw clock at one moment.
    pub(super) fn sample(self) -> Sample {
        let (count, raw_ns) = self.beside(|| kernel_ns(libc::CLOCK_MONOTONIC_RAW));
        Sample { count, raw_ns }
    }

    /// The count and what another clock says at that moment: of several tries the one that took least, so that a preemption
    /// between the two reads does not show.
    pub(super) fn beside(self, clock: impl Fn() -> u64) -> (u64, u64) {
        let (mut least, mut best) = (u64::MAX, (0, 0));
        for _ in 0..16 {
            let before = self.read();
            let there = clock();
            let width = self.read().saturating_sub(before);
            if width < least {
                (least, best) = (width, (before + width / 2, there));
            }
        }
        best
    }
}

/// See [`Counter::sample`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) count: u64,
    pub(super) raw_ns: u64,
}

#[cfg(target_arch = "x86_64")]
mod tsc {
    use std::arch::x86_64::{__cpuid, __rdtscp, _mm_lfence};

    /// CPUID leaf 0x8000_0007, EDX bit 8 (Intel SDM volume 3, 19.17.1; AMD APM volume 3, E.4.6), and RDTSCP there (leaf
    /// 0x8000_0001, EDX bit 27).
    pub(super) fn is_invariant() -> bool {
        let leaves = __cpuid(0x8000_0000).eax;
        leaves >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0 && __cpuid(0x8000_0001).edx & (1 << 27) != 0
    }

    /// RDTSCP waits until all earlier instructions have executed and earlier loads are globally visible; the fence after it
    /// keeps later ones from starting before (Intel SDM volume 2, RDTSCP).
    #[inline]
    pub(super) fn read_fenced() -> u64 {
        let mut core = 0;
        // SAFETY: RDTSCP writes the core's number to our variable; `Counter::Tsc` is only made where the processor has it.
        let count = unsafe { __rdtscp(&raw mut core) };
        // SAFETY: LFENCE is part of SSE2, which every x86_64 has.
        unsafe { _mm_lfence() };
        count
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod tsc {
    pub(super) fn is_invariant() -> bool {
        false
    }

    pub(super) fn read_fenced() -> u64 {
        super::kernel_ns(libc::CLOCK_MONOTONIC_RAW)
    }
}
