//! Several members' engines over loopback: the real peer endpoint, the real clock, stores in memory.

mod decide;
mod disorder;
mod forget;
mod halted;
mod join;
mod kit;
mod promises;
mod reach;
mod said;
mod versions;
