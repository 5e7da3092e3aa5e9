//! Every interleaving of the protocol within bounds: the shipped step function, on a model of the kernel.
//!
//! The properties and the bounds are told in `explore`; `real` shows that the model's kernel does what the real one does.

#[path = "../../rmux-bootstrap/src/join/phase.rs"]
#[allow(dead_code, reason = "the names are for the record")]
mod phase;
#[path = "../../rmux-bootstrap/src/join/step.rs"]
#[allow(dead_code, reason = "the names are for the trace")]
mod step;

mod caller;
mod daemon;
mod explore;
mod kernel;
#[cfg(target_os = "linux")]
mod logs;
#[cfg(target_os = "linux")]
mod real;
mod seeded;
mod visitor;
mod world;
