//! Systems of this same program as processes of their own, and a network between them: what the demo, the bench and the tests
//! work with.

pub mod cable;
pub mod children;
pub mod ports;
pub mod relay;
pub mod system;
