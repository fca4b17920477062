//! Controller properties (Base 2.0, 3.1.3).

/// Property offsets.
pub mod offset {
    #![allow(missing_docs)]
    pub const CAP: u32 = 0x00;
    pub const VS: u32 = 0x08;
    pub const CC: u32 = 0x14;
    pub const CSTS: u32 = 0x1c;
    pub const CRTO: u32 = 0x68;
}

/// Fields of CAP.
pub mod cap {
    /// Contiguous queues required; so for Fabrics.
    pub const CQR: u64 = 1 << 16;
    /// TO, in 500 ms units.
    pub const TO_SHIFT: u32 = 24;
    /// CSS: the NVM command set.
    pub const CSS_NVM: u64 = 1 << 37;
    /// CRMS: controller ready with media support.
    pub const CRWMS: u64 = 1 << 59;
}

/// Fields of CC.
pub mod cc {
    /// Enable.
    pub const EN: u32 = 1;
    /// I/O command set selected, memory page size and arbitration: only 0 of each is on offer.
    pub const CSS_MPS_AMS: u32 = 0x3ff0;
    /// Shutdown notification.
    pub const SHN: u32 = 3 << 14;
    /// Submission queue entry size, log2.
    pub const fn iosqes(value: u32) -> u32 {
        value >> 16 & 0xf
    }
    /// Completion queue entry size, log2.
    pub const fn iocqes(value: u32) -> u32 {
        value >> 20 & 0xf
    }
}

/// Fields of CSTS.
pub mod csts {
    /// Ready.
    pub const RDY: u32 = 1;
    /// Controller fatal status.
    pub const CFS: u32 = 1 << 1;
    /// Shutdown is being processed.
    pub const SHST_OCCURRING: u32 = 1 << 2;
    /// Shutdown complete.
    pub const SHST_COMPLETE: u32 = 2 << 2;
}
