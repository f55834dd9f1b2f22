//! One-dimensional reading of array and varlena datums, without copying elements.

use pgrx::pg_sys;
use pgrx::varlena::{varatt_is_1b_e, varatt_is_4b_c, varlena_to_byte_slice};

/// The bytes of a text datum, without checking their encoding.
///
/// # Safety
/// `datum` is a text or another varlena, and lives as long as `'a`: in the caller's memory context.
pub unsafe fn text_bytes<'a>(datum: pg_sys::Datum) -> &'a [u8] {
    // SAFETY: by the caller's promise a varlena; detoasting copies into the current context.
    unsafe {
        let mut varlena = datum.cast_mut_ptr();
        // What pg_detoast_datum_packed asks too, but without the price of a call.
        if varatt_is_1b_e(varlena) || varatt_is_4b_c(varlena) {
            varlena = pg_sys::pg_detoast_datum_packed(varlena);
        }
        varlena_to_byte_slice(varlena)
    }
}

/// The elements of an array datum, `None` for a NULL among them.
///
/// # Safety
/// `datum` is an array of `element_type`, which is text or inet.
pub unsafe fn elements(
    datum: pg_sys::Datum,
    element_type: pg_sys::Oid,
) -> Vec<Option<pg_sys::Datum>> {
    let mut datums = std::ptr::null_mut();
    let mut nulls = std::ptr::null_mut();
    let mut count = 0;
    // SAFETY: by the caller's promise; `deconstruct_array` allocates `count` of each.
    unsafe {
        let array = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        pg_sys::deconstruct_array(
            array,
            element_type,
            -1,
            false,
            // text and inet both are aligned as int.
            pg_sys::TYPALIGN_INT.cast_signed(),
            &mut datums,
            &mut nulls,
            &mut count,
        );
        (0..usize::try_from(count).unwrap_or(0))
            .map(|at| (!*nulls.add(at)).then(|| *datums.add(at)))
            .collect()
    }
}

/// The elements of a text array, as [`text_bytes`].
///
/// # Safety
/// `datum` is a text array, and lives as long as `'a`.
pub unsafe fn texts<'a>(datum: pg_sys::Datum) -> Vec<Option<&'a [u8]>> {
    // SAFETY: by the caller's promise.
    unsafe {
        elements(datum, pg_sys::TEXTOID)
            .into_iter()
            .map(|element| element.map(|text| text_bytes(text)))
            .collect()
    }
}
