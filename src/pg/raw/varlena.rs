//! Values of variable length and arrays, read without copying elements.

use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, varlena_to_byte_slice};

/// The bytes of a text datum, without checking their encoding.
///
/// # Safety
/// `datum` is a text or another varlena, and lives as long as `'a`: in the caller's memory context.
pub unsafe fn bytes<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: by the caller's promise a varlena; detoasting copies into the current context.
    unsafe {
        let mut varlena = datum.cast_mut_ptr();
        // pg_detoast_datum_packed asks the same, at the price of a call.
        if varatt_is_1b_e(varlena) || varatt_is_4b_c(varlena) {
            varlena = pg_sys::pg_detoast_datum_packed(varlena);
        }
        varlena_to_byte_slice(varlena)
    }
}

/// The elements of an array datum as `read` reads them, `None` for a NULL among them.
///
/// # Safety
/// `datum` is an array of `element`, which is text, inet or uuid; `read` reads that type.
pub unsafe fn elements<T>(datum: Datum, element: Oid, read: impl Fn(Datum) -> T) -> Vec<Option<T>> {
    // text and inet are aligned as int, a uuid as char (pg_type.dat).
    let (length, alignment) = if element == pg_sys::UUIDOID {
        (16, pg_sys::TYPALIGN_CHAR)
    } else {
        (-1, pg_sys::TYPALIGN_INT)
    };
    let mut datums = std::ptr::null_mut();
    let mut nulls = std::ptr::null_mut();
    let mut count = 0;
    // SAFETY: by the caller's promise; `deconstruct_array` allocates `count` of each.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        pg_sys::deconstruct_array(
            array,
            element,
            length,
            false,
            alignment.cast_signed(),
            &mut datums,
            &mut nulls,
            &mut count,
        );
        (0..usize::try_from(count).unwrap_or(0))
            .map(|at| (!*nulls.add(at)).then(|| read(*datums.add(at))))
            .collect()
    }
}
