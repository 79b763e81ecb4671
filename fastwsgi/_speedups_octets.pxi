# Octets: character classes, and the text of a str. Included by _speedups.pyx.

cdef unsigned char LOWER[256]
cdef unsigned char IS_TCHAR[256]
cdef unsigned char IS_TARGET[256]
cdef unsigned char IS_TOLERANT_TARGET[256]
cdef unsigned char IS_FIELD_VALUE[256]
cdef unsigned char IS_ALPHA_DIGIT[256]
cdef unsigned char IS_PLAIN[256]


cdef void fill(unsigned char* table, str characters):
    memset(table, 0, 256)
    for character in re.findall(f"[{characters}]", bytes(range(256)).decode("iso-8859-1")):
        table[<Py_UCS4>character] = 1


def _fill_tables():
    cdef int octet
    for octet in range(256):
        LOWER[octet] = octet + 32 if 65 <= octet <= 90 else octet
    fill(IS_TCHAR, TCHAR)
    fill(IS_TARGET, TARGET)
    fill(IS_TOLERANT_TARGET, TOLERANT_TARGET)
    fill(IS_FIELD_VALUE, FIELD_VALUE)
    fill(IS_ALPHA_DIGIT, "0-9A-Za-z")
    fill(IS_PLAIN, r" !#-\[\]-~")


# For eight octets at a time, in any byte order. They are macros because a cdef variable isn't a constant for C.
cdef extern from *:
    """
    #define WORD 8
    #define ONES UINT64_C(0x0101010101010101)
    #define HIGH_BITS UINT64_C(0x8080808080808080)
    """
    const Py_ssize_t WORD
    const uint64_t ONES
    const uint64_t HIGH_BITS


cdef inline uint64_t control_bits(uint64_t word) noexcept:
    """Not zero if an octet of the word is less than 32 or is 127. Borrows hide which octet it is."""
    cdef uint64_t deleted = word ^ ONES * 127
    return ((word - ONES * 32) & ~word | (deleted - ONES) & ~deleted) & HIGH_BITS


cdef inline bint no_control(Octets text, Py_ssize_t size) noexcept:
    """Whether no octet is a control character, as a field name or a status requires; eight at a time."""
    cdef uint64_t word
    cdef Octets last = text + size - WORD
    if size < WORD:
        while size:
            size -= 1
            if text[size] < 32 or text[size] == 127:
                return False
        return True
    while text < last:
        memcpy(&word, text, WORD)
        if control_bits(word):
            return False
        text += WORD
    memcpy(&word, last, WORD)
    return not control_bits(word)


cdef inline bint clean(Octets text, Py_ssize_t size) noexcept:
    """Whether a field value may have all these octets."""
    cdef Py_ssize_t i
    if no_control(text, size):
        return True
    for i in range(size):
        if not IS_FIELD_VALUE[text[i]]:
            return False
    return True


# ---- str as octets -----------------------------------------------------------------------------------

cdef inline bint is_ascii(object text) noexcept:
    return PyUnicode_CheckExact(text) and PyUnicode_IS_ASCII(text)


cdef inline bint is_latin1(object text) noexcept:
    return PyUnicode_CheckExact(text) and PyUnicode_KIND(text) == PyUnicode_1BYTE_KIND


cdef inline Octets octets(object text) noexcept:
    return <Octets>PyUnicode_DATA(text)


cdef inline uint64_t upper_word(uint64_t word) noexcept:
    """Convert eight octets of ASCII to upper case."""
    # In the first sum, an octet's high bit says that it is at least "a"; in the second, that it is more than "z".
    return word - (((word + ONES * (0x80 - 0x61)) ^ (word + ONES * (0x80 - 0x7B))) >> 2 & ONES * 0x20)


cdef inline bint same_word(Octets a, Octets b) noexcept:
    cdef uint64_t one, other
    memcpy(&one, a, WORD)
    memcpy(&other, b, WORD)
    return one == other or upper_word(one) == upper_word(other)


cdef inline bint same_name(Octets a, Octets b, Py_ssize_t size) noexcept:
    """Whether two ASCII names of the same size are equal apart from case."""
    cdef Py_ssize_t i = 0
    if size < WORD:
        for i in range(size):
            if a[i] != b[i] and LOWER[a[i]] != LOWER[b[i]]:
                return False
        return True
    while i < size - WORD:
        if not same_word(a + i, b + i):
            return False
        i += WORD
    return same_word(a + size - WORD, b + size - WORD)
