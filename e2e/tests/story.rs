//! The demo's story as a test: three owners, one cooperative, one model served across them, on real clusters.

use std::process::ExitCode;

use koinon_e2e::cache::Cache;
use koinon_e2e::story::{self, Chapter, MEMBERS, Materials, Stage};
use koinon_e2e::{Narrator, Suite};

fn main() -> ExitCode {
    Suite::over(&MEMBERS)
        .case("three_owners_found_vote_serve_survive_a_cut_and_stop", |fleet| async move {
            let materials = Materials::ensure(&Cache::from_env()?, &|what| eprintln!("{what}"))?;
            let mut stage = Stage::set(fleet, materials).await?;
            stage.plug_all_gpus().await?;
            story::tell(&mut stage, &Narrator::on_stdout(), Chapter::Stop).await
        })
        .main()
}
