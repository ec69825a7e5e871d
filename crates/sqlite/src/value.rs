//! Values that SQLite lends to a callback.

use std::marker::PhantomData;
use std::ops::Index;
use std::slice;

use rusqlite::ffi;
use rusqlite::types::ValueRef;

/// One argument of a function, a constraint or a change: a value that SQLite owns during the call.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Arg<'a> {
    raw: *mut ffi::sqlite3_value,
    _lent: PhantomData<&'a ffi::sqlite3_value>,
}

impl<'a> Arg<'a> {
    /// # Safety
    /// `raw` is a value of SQLite that nobody changes or frees during `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: *mut ffi::sqlite3_value) -> Self {
        Self { raw, _lent: PhantomData }
    }

    #[inline]
    pub(crate) fn as_ptr(self) -> *mut ffi::sqlite3_value {
        self.raw
    }

    #[inline]
    pub fn value(self) -> ValueRef<'a> {
        // SAFETY: `raw` lives during 'a (from_raw), and so do its bytes (value_bytes).
        unsafe { value_ref(self.raw) }
    }

    /// The value as SQLite casts it to an integer.
    #[inline]
    pub fn int(self) -> i64 {
        // SAFETY: `raw` is a living value (from_raw).
        unsafe { ffi::sqlite3_value_int64(self.raw) }
    }

    /// The value as SQLite casts it to a float.
    #[inline]
    pub fn real(self) -> f64 {
        // SAFETY: `raw` is a living value (from_raw).
        unsafe { ffi::sqlite3_value_double(self.raw) }
    }

    /// The bytes of a text or a blob; a number as text; empty for NULL. Text need not be valid UTF-8.
    #[inline]
    pub fn text(self) -> &'a [u8] {
        // SAFETY: `raw` lives during 'a (from_raw).
        unsafe { value_bytes(self.raw, ffi::sqlite3_value_type(self.raw)) }
    }

    /// The same bytes as [`Arg::text`]: SQLite keeps one representation per value.
    #[inline]
    pub fn blob(self) -> &'a [u8] {
        self.text()
    }

    /// `SQLITE_INTEGER`, `SQLITE_FLOAT`, `SQLITE_TEXT`, `SQLITE_BLOB` or `SQLITE_NULL`.
    #[inline]
    pub fn kind(self) -> i32 {
        // SAFETY: `raw` is a living value (from_raw).
        unsafe { ffi::sqlite3_value_type(self.raw) }
    }

    #[inline]
    pub fn is_null(self) -> bool {
        self.kind() == ffi::SQLITE_NULL
    }

    /// Whether both are of one type and hold the same bits. Texts are compared as they are encoded, without the
    /// conversions and copies of reading them; so ask before either is read, in case they are UTF-16.
    #[inline]
    pub fn is_identical(self, other: Arg<'_>) -> bool {
        let kind = self.kind();
        if kind != other.kind() {
            return false;
        }
        match kind {
            ffi::SQLITE_INTEGER => self.int() == other.int(),
            ffi::SQLITE_FLOAT => self.real().to_bits() == other.real().to_bits(),
            ffi::SQLITE_NULL => true,
            // SAFETY: both are living texts or blobs (from_raw), and the bytes are not kept.
            _ => unsafe { encoded_bytes(self.raw) == encoded_bytes(other.raw) },
        }
    }

    /// True for a column that the UPDATE of a virtual table leaves as it is.
    #[inline]
    pub fn nochange(self) -> bool {
        // SAFETY: `raw` is a living value (from_raw).
        unsafe { ffi::sqlite3_value_nochange(self.raw) != 0 }
    }
}

/// The arguments of one call.
#[derive(Clone, Copy)]
pub struct Args<'a>(&'a [Arg<'a>]);

impl<'a> Args<'a> {
    /// # Safety
    /// `argv` points to `argc` living values (or `argc` is 0), and array and values stay during `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw(argc: i32, argv: *mut *mut ffi::sqlite3_value) -> Self {
        match usize::try_from(argc) {
            // SAFETY: the caller vouches for the array; Arg is transparent over its element.
            Ok(n) if n > 0 => Self(unsafe { slice::from_raw_parts(argv.cast::<Arg<'a>>(), n) }),
            _ => Self(&[]),
        }
    }

    /// The arguments from `start` on; none if there are fewer.
    #[inline]
    pub fn skip(self, start: usize) -> Self {
        Self(self.0.get(start..).unwrap_or(&[]))
    }

    #[inline]
    pub fn len(self) -> usize {
        self.0.len()
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The i-th argument. The number of arguments is the registration's or the schema's, never data; a wrong
    /// index is a programming error and panics (which becomes an SQL error).
    #[inline]
    pub fn get(self, i: usize) -> Arg<'a> {
        self.0[i]
    }

    #[inline]
    pub fn iter(self) -> impl ExactSizeIterator<Item = Arg<'a>> {
        self.0.iter().copied()
    }

    #[inline]
    pub fn as_slice(self) -> &'a [Arg<'a>] {
        self.0
    }
}

impl<'a> Index<usize> for Args<'a> {
    type Output = Arg<'a>;

    #[inline]
    fn index(&self, i: usize) -> &Arg<'a> {
        &self.0[i]
    }
}

/// # Safety
/// `raw` is a living value, and its bytes stay during `'a` (see [`value_bytes`]).
#[inline]
pub(crate) unsafe fn value_ref<'a>(raw: *mut ffi::sqlite3_value) -> ValueRef<'a> {
    // SAFETY: the caller vouches for `raw`.
    unsafe {
        match ffi::sqlite3_value_type(raw) {
            ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_value_int64(raw)),
            ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_value_double(raw)),
            ffi::SQLITE_TEXT => ValueRef::Text(value_bytes(raw, ffi::SQLITE_TEXT)),
            ffi::SQLITE_BLOB => ValueRef::Blob(value_bytes(raw, ffi::SQLITE_BLOB)),
            _ => ValueRef::Null,
        }
    }
}

/// The bytes of a value. Each kind is read through one SQLite function only, always the same: a second one could
/// convert the value in place (UTF-16, a number) and free the bytes that the first one lent. UTF-8 text is read as the
/// blob that it is, for `sqlite3_value_text` copies whatever lacks a terminator.
///
/// # Safety
/// `raw` is a living value of type `kind` that during `'a` is read only through this module.
#[inline]
pub(crate) unsafe fn value_bytes<'a>(raw: *mut ffi::sqlite3_value, kind: i32) -> &'a [u8] {
    // SAFETY: the caller vouches for `raw`. The length is asked after the bytes, as SQLite demands, and null
    // (NULL, an empty blob or text, out of memory) is never made a slice. Text converted to UTF-8 stays that.
    unsafe {
        let start = match kind {
            ffi::SQLITE_BLOB => ffi::sqlite3_value_blob(raw).cast::<u8>(),
            ffi::SQLITE_TEXT if ffi::sqlite3_value_encoding(raw) == ffi::SQLITE_UTF8 => {
                ffi::sqlite3_value_blob(raw).cast::<u8>()
            }
            ffi::SQLITE_NULL => return &[],
            _ => ffi::sqlite3_value_text(raw).cast::<u8>(),
        };
        if start.is_null() {
            return &[];
        }
        let len = ffi::sqlite3_value_bytes(raw);
        slice::from_raw_parts(start, usize::try_from(len).unwrap_or(0))
    }
}

/// The bytes of a text in its own encoding, or of a blob.
///
/// # Safety
/// `raw` is a living text or blob; the bytes are valid until it is next read in any way.
#[inline]
unsafe fn encoded_bytes<'a>(raw: *mut ffi::sqlite3_value) -> &'a [u8] {
    // SAFETY: the caller vouches for `raw`. A text read as a blob is neither converted nor terminated, and keeps its
    // type; its length is that of the same bytes then.
    unsafe {
        let start = ffi::sqlite3_value_blob(raw).cast::<u8>();
        if start.is_null() {
            return &[];
        }
        let len = ffi::sqlite3_value_bytes(raw);
        slice::from_raw_parts(start, usize::try_from(len).unwrap_or(0))
    }
}
