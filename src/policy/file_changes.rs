//! [`FileChanges`]: has a file that is read again and again a new content?

/// The contents of a file that is read repeatedly, by their hashes.
///
/// A file may be read while it is written, and the half of it may make sense. A content therefore counts once it has
/// been read twice in a row, and each content once:
///
/// ```text
/// read    A     B½          B          B          B          A          A
/// is      new   unsettled   unsettled  new        the same   unsettled  new
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileChanges {
    /// The content that was new last.
    current: Option<u64>,
    /// The content that was read last.
    last: Option<u64>,
}

/// What a content is that was just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileContent {
    /// The one that was new last.
    Same,
    /// Another one: the file may still be written, and is to be read once more soon.
    Unsettled,
    /// A new one that is complete.
    New,
}

impl FileChanges {
    /// A file whose content was read before; `None` if it was not.
    pub(crate) fn since(content: Option<u64>) -> Self {
        Self {
            current: content,
            last: content,
        }
    }

    /// The file was read, and its content has this hash.
    pub(crate) fn read(&mut self, content: u64) -> FileContent {
        let last = self.last.replace(content);
        if self.current == Some(content) {
            return FileContent::Same;
        }
        if last != Some(content) {
            return FileContent::Unsettled;
        }
        self.current = Some(content);
        FileContent::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_content_is_new_once_when_it_was_read_twice() {
        use FileContent::{New, Same, Unsettled};
        let mut changes = FileChanges::since(Some(1));
        let rows = [
            (1, Same),
            (2, Unsettled),
            (3, Unsettled),
            (3, New),
            (3, Same),
            (4, Unsettled),
            (3, Same),
            (4, Unsettled),
            (4, New),
            (1, Unsettled),
            (1, New),
        ];
        for (number, (content, expected)) in rows.into_iter().enumerate() {
            assert_eq!(changes.read(content), expected, "row {number}");
        }
        let mut changes = FileChanges::since(None);
        assert_eq!([changes.read(1), changes.read(1)], [Unsettled, New]);
    }
}
