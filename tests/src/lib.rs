//! What shows that Evenkeel keeps its promises: a simulator that runs the core that ships, an
//! oracle that knows only requests and answers, and the enumeration of crashes.

pub mod checkers;
pub mod crash;
pub mod damage;
pub mod evenkeel;
pub mod oracle;
pub mod power;
pub mod rng;
pub mod sim;
pub mod soak;
pub mod standin;
pub mod subject;
pub mod workload;
