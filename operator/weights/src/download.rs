//! One file over HTTP into one part on disk: resumed, bounded, hashed on the way.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use koinon_core::ids::Digest;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::cache::{Full, Room};
use crate::disk::DiskError;
use crate::way::{Way, WayError};

/// How patient a download is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A source that sends nothing for so long is asked again for the rest.
    pub idle: Duration,
    /// Attempts in a row that brought not one byte, after which the source counts as unreachable.
    pub fruitless: u32,
    /// Pause after the first of them; doubled for each further one, at most 30 s.
    pub pause: Duration,
    /// Bytes a second that a source sends at least: one that trickles must not hold the turn of others for ever.
    pub least: u64,
    /// Over how long that is counted.
    pub window: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            fruitless: 5,
            pause: Duration::from_secs(1),
            // At this pace the smallest models of use, of 1 GB, would take four hours.
            least: 64 << 10,
            window: Duration::from_secs(120),
        }
    }
}

/// A file that has come whole.
#[derive(Debug)]
pub(crate) struct Received {
    pub digest: Digest,
    pub size: u64,
    /// Whether some of it was on disk before, so that a wrong digest may be our own fault.
    pub resumed: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error(transparent)]
    Way(WayError),
    #[error("{url} answered {status}{hint}")]
    Refused { url: String, status: StatusCode, hint: &'static str },
    #[error("{url} could not be read, {attempts} times in a row: {why}")]
    Unreachable { url: String, attempts: u32, why: String },
    #[error(
        "{url} sends too slowly: {bytes} bytes in {seconds} s, where {least} in a second are expected; what came is kept, other \
         models go first, and it is tried again later"
    )]
    Slow { url: String, bytes: u64, seconds: u64, least: u64 },
    #[error("{url} sends {sent} bytes where {allowed} are allowed")]
    TooLarge { url: String, sent: u64, allowed: u64 },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Full(#[from] Full),
}

/// What one attempt came to, where another may do better.
enum Broken {
    Off(String),
    For(DownloadError),
}

impl<E: Into<DownloadError>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::For(error.into())
    }
}

/// What to download, and within which bounds.
pub(crate) struct Download<'a> {
    pub way: &'a Way,
    pub url: &'a Url,
    pub part: &'a Path,
    /// The exact size, where a manifest says it.
    pub size: Option<u64>,
    /// The most that is taken where the size is not known.
    pub limit: u64,
    pub patience: Patience,
    pub room: &'a Room,
}

/// The part so far: the open file, its length and the hash of what is in it.
struct Part {
    file: File,
    length: u64,
    hash: Sha256,
    pace: Pace,
}

/// How fast a source sends, since the last look. Pauses between attempts count: whoever waits does not care why.
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), bytes: 0 }
    }
}

impl Download<'_> {
    pub async fn run(&self) -> Result<Received, DownloadError> {
        let mut part = self.open().await?;
        let resumed = part.length > 0;
        let mut fruitless = 0;
        loop {
            if self.size == Some(part.length) {
                break;
            }
            let before = part.length;
            let why = match self.attempt(&mut part).await {
                Ok(()) => break,
                Err(Broken::For(error)) => return Err(error),
                Err(Broken::Off(why)) => why,
            };
            self.look_at(&mut part.pace, 0)?;
            fruitless = if part.length > before { 0 } else { fruitless + 1 };
            tracing::debug!(url = %shown(self.url), have = part.length, why, "download broke off");
            if fruitless >= self.patience.fruitless {
                return Err(DownloadError::Unreachable { url: shown(self.url), attempts: fruitless, why });
            }
            let doubled = self.patience.pause.saturating_mul(1 << fruitless.min(16));
            tokio::time::sleep(doubled.min(Duration::from_secs(30))).await;
        }
        part.file.sync_all().await.map_err(DiskError::at("writing", self.part))?;
        Ok(Received { digest: Digest(part.hash.finalize().into()), size: part.length, resumed })
    }

    /// Opens what is already here and hashes it.
    async fn open(&self) -> Result<Part, DownloadError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(self.part).await.map_err(DiskError::at("opening", self.part))?;
        let mut hash = Sha256::new();
        let mut length = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).await.map_err(DiskError::at("reading", self.part))?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            length += read as u64;
        }
        // From here on: reading what is on disk may take minutes, and the source has no part in it.
        let mut part = Part { file, length, hash, pace: Pace::new() };
        if self.size.is_some_and(|size| part.length > size) {
            self.restart(&mut part).await?;
        }
        Ok(part)
    }

    async fn restart(&self, part: &mut Part) -> Result<(), DownloadError> {
        self.room.progress.take_back(part.length);
        part.length = 0;
        part.hash = Sha256::new();
        let emptied = async {
            part.file.set_len(0).await?;
            part.file.rewind().await.map(drop)
        };
        Ok(emptied.await.map_err(DiskError::at("emptying", self.part))?)
    }

    async fn attempt(&self, part: &mut Part) -> Result<(), Broken> {
        let response = self.way.get(self.url, part.length).await.map_err(|error| match error {
            WayError::Broken(_) => Broken::Off(error.to_string()),
            WayError::Forbidden { .. } => Broken::For(DownloadError::Way(error)),
        })?;
        match response.status() {
            StatusCode::OK if part.length > 0 => self.restart(part).await?,
            StatusCode::OK => {}
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(part.length) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart(part).await?;
                return Err(Broken::Off("it could not go on where the last attempt ended".to_owned()));
            }
            status => return Err(self.refused(status)),
        }
        let rest = response.content_length();
        let most = self.size.unwrap_or(self.limit);
        if let Some(rest) = rest {
            let sent = part.length.saturating_add(rest);
            if sent > most {
                return Err(self.too_large(sent, most));
            }
            if self.size.is_none() {
                self.room.ensure(sent).await?;
                self.room.progress.set_total(sent);
            }
        }
        self.receive(response, part, most).await?;
        match self.size {
            Some(size) if part.length < size => {
                Err(Broken::Off(format!("it ended after {} of {size} bytes", part.length)))
            }
            _ => Ok(()),
        }
    }

    async fn receive(&self, response: Response, part: &mut Part, most: u64) -> Result<(), Broken> {
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    // What came is worth keeping, and on disk before the next attempt asks for what follows it.
                    part.file.flush().await.map_err(DiskError::at("writing", self.part))?;
                    return Err(broken_off(error));
                }
            };
            let length = part.length + chunk.len() as u64;
            if length > most {
                return Err(self.too_large(length, most));
            }
            if self.size.is_none() {
                self.room.ensure(length).await?;
            }
            part.file.write_all(&chunk).await.map_err(DiskError::at("writing", self.part))?;
            part.hash.update(&chunk);
            part.length = length;
            self.room.progress.add(chunk.len() as u64);
            self.look_at(&mut part.pace, chunk.len() as u64)?;
        }
        Ok(part.file.flush().await.map_err(DiskError::at("writing", self.part))?)
    }

    /// Gives a source up that was too slow over a whole window.
    fn look_at(&self, pace: &mut Pace, came: u64) -> Result<(), DownloadError> {
        pace.bytes += came;
        let (elapsed, least) = (pace.since.elapsed(), self.patience.least);
        if elapsed < self.patience.window {
            return Ok(());
        }
        let bytes = std::mem::replace(pace, Pace::new()).bytes;
        if u128::from(bytes) * 1000 < u128::from(least) * elapsed.as_millis() {
            return Err(DownloadError::Slow { url: shown(self.url), bytes, seconds: elapsed.as_secs(), least });
        }
        Ok(())
    }

    fn refused(&self, status: StatusCode) -> Broken {
        let again = status.is_server_error()
            || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS | StatusCode::TOO_EARLY);
        if again {
            return Broken::Off(format!("it answered {status}"));
        }
        let hint = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; check the Secret of the source",
            StatusCode::NOT_FOUND | StatusCode::GONE => "; check the uri, its revision and the source's mirror",
            _ => "",
        };
        Broken::For(DownloadError::Refused { url: shown(self.url), status, hint })
    }

    fn too_large(&self, sent: u64, allowed: u64) -> Broken {
        Broken::For(DownloadError::TooLarge { url: shown(self.url), sent, allowed })
    }
}

fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn broken_off(error: reqwest::Error) -> Broken {
    Broken::Off(whole_story(&error.without_url()))
}

/// An error with its causes. The url is left out of the first one: it may carry a credential in its query.
pub(crate) fn whole_story(error: &dyn Error) -> String {
    let mut story = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        story = format!("{story}: {error}");
        cause = error.source();
    }
    story
}

/// A url as it may be shown to anybody.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}
