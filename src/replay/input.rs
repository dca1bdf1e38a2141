//! Opens logs: files and standard input, plain, gzip or Zstandard by their first bytes.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Cursor, Read},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// Where a log comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Standard input.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl Input {
    /// Its name in reports.
    pub fn name(&self) -> String {
        match self {
            Self::Stdin => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Its size in bytes as it is stored; 0 if it is not known.
    pub fn size(&self) -> u64 {
        match self {
            Self::Stdin => 0,
            Self::File(path) => std::fs::metadata(path).map_or(0, |data| data.len()),
        }
    }

    /// Opens it. `read` counts the bytes that were read, as they are stored.
    pub(super) fn open(&self, read: &Arc<AtomicU64>) -> io::Result<Box<dyn Read>> {
        let reader: Box<dyn Read> = match self {
            Self::Stdin => Box::new(io::stdin()),
            Self::File(path) => Box::new(File::open(path)?),
        };
        decompressed(Counting {
            reader,
            read: Arc::clone(read),
        })
    }
}

/// Counts what is read.
struct Counting {
    reader: Box<dyn Read>,
    read: Arc<AtomicU64>,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// RFC 1952 §2.3.1.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// RFC 8878 §3.1.1; the second is that of a skippable frame, with which some tools begin.
const ZSTD: [&[u8]; 2] = [&[0x28, 0xb5, 0x2f, 0xfd], &[0x50, 0x2a, 0x4d, 0x18]];

/// How much of a compressed file is read at once, in bytes.
const CHUNK: usize = 64 * 1024;

fn decompressed(mut reader: impl Read + 'static) -> io::Result<Box<dyn Read>> {
    let mut first = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut first)?;
    let is_gzip = first.starts_with(GZIP);
    let is_zstd = ZSTD.iter().any(|magic| first.starts_with(magic));
    let whole = Cursor::new(first).chain(reader);
    Ok(if is_gzip {
        Box::new(MultiGzDecoder::new(BufReader::with_capacity(CHUNK, whole)))
    } else if is_zstd {
        Box::new(Zstd {
            source: BufReader::with_capacity(CHUNK, whole),
            frame: FrameDecoder::new(),
        })
    } else {
        Box::new(whole)
    })
}

/// Decodes Zstandard frames, one after the other.
struct Zstd<R> {
    source: BufReader<R>,
    frame: FrameDecoder,
}

impl<R: Read> Zstd<R> {
    /// Begins the next frame; `false` at the end.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.init(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = self.source.by_ref().take(length.into());
                    io::copy(&mut skipped, &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.frame.can_collect() == 0 {
            if !self.frame.is_finished() {
                self.frame
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(io::Error::other)?;
            } else if !self.begin()? {
                return Ok(0);
            }
        }
        self.frame.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        compress_to_vec(text, CompressionLevel::Fastest)
    }

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompressed(Cursor::new(bytes))?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn files_are_read_however_they_are_packed() {
        let text = b"a line of a log\n".repeat(20_000);
        for packed in [text.clone(), gzip(&text), zstd(&text)] {
            assert!(read(packed).unwrap() == text);
        }
        assert_eq!(read(Vec::new()).unwrap(), b"");
        assert_eq!(read(b"abc".to_vec()).unwrap(), b"abc");
    }

    #[test]
    fn several_members_and_frames_are_one_log() {
        let skippable = [ZSTD[1], &3_u32.to_le_bytes(), b"???"].concat();
        for packed in [
            [gzip(b"one\n"), gzip(b""), gzip(b"two\n")].concat(),
            [zstd(b"one\n"), skippable.clone(), zstd(b""), zstd(b"two\n")].concat(),
            [skippable, zstd(b"one\ntwo\n")].concat(),
        ] {
            assert_eq!(read(packed).unwrap(), b"one\ntwo\n");
        }
    }

    #[test]
    fn a_file_that_is_cut_off_is_an_error_after_what_is_there() {
        let text = b"a line of a log, and another one\n".repeat(20_000);
        for packed in [gzip(&text), zstd(&text)] {
            let half = packed[..packed.len() / 2].to_vec();
            assert!(read(half).is_err());
            let junk = [&packed[..20], &[0xff; 100]].concat();
            assert!(read(junk).is_err());
        }
    }
}
