use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use koinon_core::gpu::xid::{Xid, XidSource};
use proptest::prelude::*;

use super::*;
use crate::survey::judge_for_tests;

const GPU: &str = "GPU-fa4e0000-0000-4000-8000-000000000001";

/// A mailbox that knows of one device, at `0000:3b:00`.
fn mailbox() -> Mailbox {
    let mailbox = Mailbox::default();
    let survey = judge_for_tests(&serde_json::json!({"read": {
        "driverVersion": "noSymbol", "nvmlVersion": "noSymbol", "cudaVersion": "noSymbol", "count": 1,
        "devices": [{
            "index": 0, "uuid": {"value": GPU},
            "said": {"uuidAgain": {"value": GPU}, "busId": {"value": "00000000:3B:00.0"}},
        }],
    }}));
    mailbox.learn(&survey.devices);
    mailbox
}

fn start(path: &Path, mailbox: &Mailbox) -> (watch::Receiver<KernelLogState>, tokio::task::JoinHandle<()>) {
    let log = KernelLog::new(path.to_owned(), mailbox.clone());
    let state = log.state();
    let task = tokio::spawn(async move {
        let _ = log.run().await;
    });
    (state, task)
}

async fn news(mailbox: &Mailbox) -> crate::events::News {
    tokio::time::timeout(Duration::from_secs(20), mailbox.news()).await.expect("no news came")
}

#[tokio::test]
async fn an_error_in_the_log_is_heard_of_the_device_at_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kmsg");
    let mut file = File::create(&path).unwrap();
    writeln!(file, "6,1,1,-;nvidia: module license 'NVIDIA' taints kernel.\n SUBSYSTEM=pci").unwrap();
    writeln!(file, "4,2,2,-;NVRM: Xid (PCI:0000:3b:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel").unwrap();
    let mailbox = mailbox();
    let (state, task) = start(&path, &mailbox);
    let heard = news(&mailbox).await;
    assert!(heard.resurvey);
    let [report] = heard.reports.as_slice() else { panic!("{heard:?}") };
    assert_eq!((report.device.as_ref().unwrap().as_str(), report.xid), (GPU, Xid(94)));
    assert_eq!(report.sources.iter().copied().collect::<Vec<_>>(), [XidSource::KernelLog]);
    assert_eq!(report.place.map(|place| place.gpu_instance), Some(5));
    assert_eq!(report.detail.as_deref(), Some("pid=7194, Contained: CE User Channel"));
    assert_eq!(*state.borrow(), KernelLogState::Reading);

    // Half a line is waited for.
    write!(file, "4,3,3,-;NVRM: Xid (PCI:0000:3b:00): ").unwrap();
    tokio::time::sleep(LOOK * 2).await;
    writeln!(file, "79, GPU has fallen off the bus.\n4,4,3,-;NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.")
        .unwrap();
    let heard = news(&mailbox).await;
    assert_eq!(heard.reports.len(), 1, "{heard:?}");
    assert_eq!((heard.reports[0].xid, heard.reports[0].count), (Xid(79), 1));
    task.abort();
}

/// `/dev/kmsg` gives its oldest record to whoever opens it.
#[tokio::test]
async fn who_starts_again_hears_nothing_that_was_judged_and_all_that_came_since() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kmsg");
    let line = |number: u32, xid: u32| format!("4,{number},{number},-;NVRM: Xid (PCI:0000:3b:00): {xid}, pid=1\n");
    std::fs::write(&path, [line(7, 79), line(8, 79), line(9, 48)].concat()).unwrap();
    let mailbox = mailbox();
    let (said, from) = watch::channel(None);
    let log = KernelLog::new(path, mailbox.clone()).from(from);
    let task = tokio::spawn(async move {
        let _ = log.run().await;
    });
    let waited = tokio::time::timeout(LOOK * 2, mailbox.news()).await;
    assert!(waited.is_err(), "it is not known yet what was judged: {waited:?}");
    said.send_replace(Some(9));
    let heard = news(&mailbox).await;
    assert_eq!(heard.reports.iter().map(|report| (report.xid, report.count)).collect::<Vec<_>>(), [(Xid(48), 1)]);
    assert_eq!(heard.read, 10, "the record after the last one that told of an error");
    task.abort();
}

#[tokio::test]
async fn an_error_of_a_device_that_nobody_knows_may_be_of_any() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kmsg");
    std::fs::write(&path, "4,2,2,-;NVRM: Xid (PCI:0000:99:00): 79, GPU has fallen off the bus.\n").unwrap();
    let mailbox = mailbox();
    let (_, task) = start(&path, &mailbox);
    let heard = news(&mailbox).await;
    assert!(heard.resurvey && heard.reports[0].device.is_none());
    task.abort();
}

#[tokio::test]
async fn records_that_the_kernel_overwrote_are_counted_and_the_node_is_surveyed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kmsg");
    std::fs::write(&path, "4,10,2,-;one\n4,51,2,-;another\n").unwrap();
    let mailbox = mailbox();
    let (_, task) = start(&path, &mailbox);
    assert!(news(&mailbox).await.resurvey);
    assert_eq!(mailbox.counts().lost_records, 40);
    task.abort();
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_said_and_harms_nothing() {
    let mailbox = mailbox();
    let (mut state, task) = start(Path::new("/nonexistent/kmsg"), &mailbox);
    let said = state.wait_for(|state| matches!(state, KernelLogState::Unreadable(_))).await.unwrap().clone();
    let KernelLogState::Unreadable(why) = said else { panic!("{said:?}") };
    assert!(why.contains("/nonexistent/kmsg") && why.contains("mount it"), "{why}");
    task.abort();
}

/// 10,000 lines of 40 codes among which one of the worst stands once: a tenth of a second of work, in ten seconds' worth of
/// a storm of a thousand a second.
#[tokio::test]
async fn a_storm_costs_little_and_hides_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kmsg");
    let mut text = String::new();
    for number in 0..10_000 {
        let code = if number == 7_777 { 79 } else { 1 + number % 40 };
        text += &format!(
            "4,{number},{number},-;NVRM: Xid (PCI:0000:3b:00): {code}, pid='<unknown>', name=<unknown>, Ch 0000000{}\n",
            number % 8
        );
    }
    std::fs::write(&path, &text).unwrap();
    let mailbox = mailbox();
    let before = processor_time();
    let started = Instant::now();
    let (_, task) = start(&path, &mailbox);
    let mut heard = 0;
    let mut worst = false;
    let mut surveys = 0;
    while heard < 10_000 && started.elapsed() < Duration::from_secs(20) {
        let news = news(&mailbox).await;
        surveys += u32::from(news.resurvey);
        for report in news.reports {
            heard += report.count;
            worst |= report.xid == Xid(79);
        }
    }
    task.abort();
    assert_eq!((heard, worst), (10_000, true));
    assert!(surveys <= 3, "{surveys} surveys for one storm");
    // Half a second is five per cent of ten, here even without any optimisation.
    let spent = processor_time() - before;
    eprintln!("10,000 lines cost {spent:?}");
    assert!(spent < Duration::from_millis(500), "{spent:?}");
}

fn processor_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(spent.tv_sec).unwrap(), u32::try_from(spent.tv_nsec).unwrap())
}

proptest! {
    #[test]
    fn any_bytes_are_cut_into_records_without_a_panic(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
    ) {
        let mut records = Records::default();
        for piece in pieces {
            records.take(&piece, |_| {});
            prop_assert!(records.rest.len() <= BUFFER_BYTES);
        }
    }

    #[test]
    fn however_the_bytes_arrive_the_records_are_the_same(cuts in proptest::collection::vec(1_usize..40, 1..40)) {
        let text = "4,1,1,-;one\n SUBSYSTEM=pci\n4,2,5,-;two\n4,5,5,-;three\n";
        let mut rest = text.as_bytes();
        let mut records = Records::default();
        let mut heard = Vec::new();
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            records.take(piece, |record| heard.push(record.text.to_owned()));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(&heard, &["one", "two", "three"]);
        prop_assert_eq!(records.lost, 2);
    }
}

#[test]
fn a_line_without_end_is_dropped_and_the_next_is_read() {
    let mut records = Records::default();
    let mut heard = Vec::new();
    for _ in 0..100 {
        records.take(&[b'x'; 1000], |_| {});
        assert!(records.rest.len() <= BUFFER_BYTES);
    }
    records.take(b"\n4,2,2,-;two\n", |record| heard.push(record.text.to_owned()));
    assert_eq!(heard, ["two"]);
}

#[test]
fn a_time_in_the_future_is_now() {
    let now = clock::now().at.seconds().0;
    assert!((now - wall(u64::MAX).0).abs() <= 2);
    assert!(wall(0).0 < now || now - wall(0).0 <= 1);
}
