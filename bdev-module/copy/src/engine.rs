//! The engine: the links, primary roles and secondary roles of one core, as one machine.

/// Why an operator's request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
    /// There is one of that name already.
    #[error("{0}")]
    Exists(String),
    /// Not in this state.
    #[error("{0}")]
    WrongState(String),
    /// A parameter does not fit.
    #[error("{0}")]
    Invalid(String),
    /// A wait ended without what was waited for.
    #[error("{0}")]
    TimedOut(String),
    /// A device failed.
    #[error("{0}")]
    Device(String),
}
