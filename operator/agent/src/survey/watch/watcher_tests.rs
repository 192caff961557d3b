use koinon_core::gpu::xid::XidSource;

use super::*;
use crate::events::News;

const GPU: &str = "GPU-fa4e0000-0000-4000-8000-000000000001";
const PATIENT: Duration = Duration::from_secs(20);

struct Watched {
    mailbox: Mailbox,
    processes: Processes,
    devices: watch::Sender<Option<BTreeSet<DeviceId>>>,
    state: watch::Receiver<WatchState>,
    task: tokio::task::JoinHandle<()>,
}

fn found(number: u32) -> BTreeSet<DeviceId> {
    [format!("GPU-fa4e0000-0000-4000-8000-{number:012}").parse().unwrap()].into()
}

fn shell(script: &str, silence: Duration) -> Watched {
    let command = SurveyCommand { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
    let (mailbox, processes) = (Mailbox::default(), Processes::default());
    let (devices, receiver) = watch::channel(Some(found(2)));
    let watch = Watch { command, processes: processes.clone(), mailbox: mailbox.clone(), devices: receiver };
    let watcher = Watcher::new(watch).with_silence(silence);
    let state = watcher.state();
    let task = tokio::spawn(async move {
        let _ = watcher.run().await;
    });
    Watched { mailbox, processes, devices, state, task }
}

impl Watched {
    async fn news(&self) -> News {
        tokio::time::timeout(PATIENT, self.mailbox.news()).await.expect("no news came")
    }

    async fn becomes(&mut self, wanted: WatchState) {
        let state = self.state.wait_for(|state| *state == wanted);
        tokio::time::timeout(PATIENT, state).await.expect("its state does not change").unwrap();
    }

    async fn failed(&mut self) -> (Failure, String) {
        let state = self.state.wait_for(|state| matches!(state, WatchState::Failed { .. }));
        let state = tokio::time::timeout(PATIENT, state).await.expect("it did not fail").unwrap().clone();
        let WatchState::Failed { failure, message } = state else { panic!("{state:?}") };
        (failure, message)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn line(line: &Line) -> String {
    format!("echo 'koinon-watch/1 {}'\n", serde_json::to_string(line).unwrap())
}

fn event(uuid: Option<&str>, kind: u64, data: u64) -> Line {
    let uuid = uuid.map(ToOwned::to_owned);
    Line::Event(RawEvent { uuid, kind, data, gpu_instance: NONE, compute_instance: NONE, times: 3 })
}

#[tokio::test]
async fn an_xid_is_left_in_the_mailbox_and_what_the_library_prints_is_passed_over() {
    let script = format!("echo NVRM: hello\n{}sleep 60", line(&event(Some(GPU), 8, 79)));
    let watched = shell(&script, PATIENT);
    let news = watched.news().await;
    let [report] = news.reports.as_slice() else { panic!("{news:?}") };
    assert_eq!((report.device.as_ref().unwrap().as_str(), report.xid, report.count), (GPU, Xid(79), 3));
    assert!(news.resurvey && report.sources.contains(&XidSource::Nvml) && report.place.is_none());
}

#[tokio::test]
async fn events_that_say_nothing_and_errors_ask_for_a_survey() {
    for said in [event(Some(GPU), 0, 0), event(None, 0x8000, 2), event(Some(GPU), 0x10_0000, 0), Line::Error(15)] {
        let watched = shell(&format!("{}sleep 60", line(&said)), PATIENT);
        let news = watched.news().await;
        assert!(news.resurvey && news.reports.is_empty(), "{said:?}: {news:?}");
    }
    for odd in [event(None, 8, 31), event(Some("GPU-../../etc"), 8, 31), event(None, 8, u64::MAX)] {
        let watched = shell(&format!("{}sleep 60", line(&odd)), PATIENT);
        let news = watched.news().await;
        assert!(news.resurvey && news.reports[0].device.is_none(), "{odd:?}: {news:?}");
    }
}

#[tokio::test]
async fn a_process_that_says_nothing_is_killed_and_started_again_after_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let script = format!("date +%s%N >> {}; exec sleep 600", starts.display());
    let mut watched = shell(&script, Duration::from_millis(200));
    assert_eq!(watched.failed().await.0, Failure::Hung);
    assert!(watched.news().await.resurvey, "what happened meanwhile is not known");
    let starts = || std::fs::read_to_string(&starts).unwrap().lines().count();
    tokio::time::timeout(PATIENT, async {
        while starts() < 3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("it was not started again");
    assert_eq!(watched.processes.stuck(), 0);
}

#[tokio::test]
async fn the_way_in_which_it_failed_is_told() {
    let failed =
        crate::survey::wire::Failed { failure: Failure::DriverNotLoaded, code: Some(9), message: "no driver".into() };
    for (script, failure, part) in [
        (line(&Line::Failed(failed)), Failure::DriverNotLoaded, "no driver"),
        ("echo dying >&2; exit 3".to_owned(), Failure::Crashed, "exit status: 3: dying"),
        ("kill -SEGV $$".to_owned(), Failure::Crashed, "signal: 11"),
        ("echo 'koinon-watch/1 {}'; sleep 60".to_owned(), Failure::Garbled, "reading"),
        ("head -c 100000 /dev/zero | tr '\\0' x; sleep 60".to_owned(), Failure::Garbled, "more than 4096 bytes"),
    ] {
        let mut watched = shell(&script, PATIENT);
        let (seen, message) = watched.failed().await;
        assert_eq!(seen, failure, "{message}");
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn other_devices_are_watched_at_once_by_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let registered = line(&Line::Registered { devices: 1, of: 1 });
    // As the real one, it ends when nobody listens.
    let script = format!("echo start >> {0}\n{registered}cat; echo end >> {0}", starts.display());
    let mut watched = shell(&script, PATIENT);
    let listening = WatchState::Listening { devices: 1, of: 1 };
    watched.becomes(listening.clone()).await;
    watched.devices.send_replace(Some(found(1)));
    watched.becomes(WatchState::Starting).await;
    watched.becomes(listening).await;
    assert_eq!(std::fs::read_to_string(&starts).unwrap(), "start\nend\nstart\n");
    assert_eq!(watched.processes.stuck(), 0);
}

#[tokio::test]
async fn nothing_is_started_before_a_survey_has_found_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let command = SurveyCommand {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), format!("touch {}; cat", starts.display()).into()],
    };
    let (devices, receiver) = watch::channel(None);
    let watch = Watch { command, processes: Processes::default(), mailbox: Mailbox::default(), devices: receiver };
    let task = tokio::spawn(Watcher::new(watch).run());
    for none in [None, Some(BTreeSet::new())] {
        devices.send_replace(none);
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!starts.exists());
    }
    devices.send_replace(Some(found(1)));
    let started = async {
        while !starts.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENT, started).await.expect("it was not started");
    task.abort();
}

#[tokio::test]
async fn lines_survive_a_reader_that_gives_up_waiting() {
    let (mut writer, reader) = tokio::io::duplex(1024);
    let mut lines = Lines::new(reader);
    let beat = format!("{MARK}\"beat\"\n");
    let (half, rest) = beat.split_at(9);
    tokio::io::AsyncWriteExt::write_all(&mut writer, half.as_bytes()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), lines.next()).await.is_err());
    tokio::io::AsyncWriteExt::write_all(&mut writer, rest.as_bytes()).await.unwrap();
    assert_eq!(lines.next().await, Ok(Some(Line::Beat)));
    drop(writer);
    assert_eq!(lines.next().await, Ok(None));
}
