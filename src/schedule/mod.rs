//! Pure arithmetic of time: what waits, for how long, and by which clock.

mod clock;

pub use clock::SteadyWall;
