/* What the kernels compute on vectors: one function a paragraph, REAL the dtype of activations (half or float).
 *
 * A word holds eight codes q, the first one in its lowest bits; a weight is (q - 7) times the scale of its group of 32.
 * Products of fp16 activations are summed in half over a group and in float over groups: most GPUs compute twice as
 * fast in half, and sums of a whole row would lose digits in it.
 */

/* (q - 7) / 16 of codes 0 and 4. As bits of a half, 0x5400 | q is 64 + q / 16: no conversion is needed. A sixteenth keeps
 * sums over a group far below 65504, the largest half. */
static inline half2 w4_pair(uint word) {
    return as_half2((word & 0x000F000Fu) | 0x54005400u) - (half2)((half)64.4375f);
}

/* sum + x * weights / 16, in two lanes: codes 0 to 3 and 4 to 7. */
static inline REAL2 w4_dot_REAL(REAL8 x, uint word, REAL2 sum) {
    sum = mad(x.s04, convert_REAL2(w4_pair(word)), sum);
    sum = mad(x.s15, convert_REAL2(w4_pair(word >> 4)), sum);
    sum = mad(x.s26, convert_REAL2(w4_pair(word >> 8)), sum);
    return mad(x.s37, convert_REAL2(w4_pair(word >> 12)), sum);
}

/* The same for 16 rows, which lie next to each other: x[i] has feature i of all of them. */
static inline REAL16 w4_tile_REAL16(const __local REAL *address, uint word, REAL16 sum) {
    const __local REAL16 *x = (const __local REAL16 *)address;
    for (int i = 0; i < 4; ++i) {
        REAL2 weights = convert_REAL2(w4_pair(word >> (4 * i)));
        sum = mad(x[i], (REAL16)(weights.x), sum);
        sum = mad(x[i + 4], (REAL16)(weights.y), sum);
    }
    return sum;
}

static inline float dot_REAL(REAL8 x, float8 y, float sum) {
    float8 wide = convert_float8(x);
    return sum + dot(wide.lo, y.lo) + dot(wide.hi, y.hi);
}

static inline float8 scaled_REAL(REAL8 x, float factor) { return convert_float8(x) * factor; }

static inline float8 add_scaled_REAL(REAL8 x, float factor, float8 sum) {
    return mad(convert_float8(x), (float8)(factor), sum);
}

static inline REAL8 normalized_REAL(REAL8 x, float factor, REAL8 weight) {
    return convert_REAL8(convert_float8(x) * factor * convert_float8(weight));
}

/* Of numbers from 0 on. TVM's own division rounds down whatever the signs, and is repeated wherever it is used. */
static inline int quotient(int x, int y) { return x / y; }

/* Where feature k lies among heads with padding: exact up to 2^20 features. Phones take far longer to divide integers. */
static inline int padded_index(int k, float heads_per_feature, float padding) {
    return k + (int)(floor(mad((float)k, heads_per_feature, 0.5f * heads_per_feature)) * padding);
}

/* Whole vectors at once. OpenCL's vload expects no more than a lane's alignment, and drivers then load lane by lane. */
static inline REAL2 load_REAL2(const __global REAL *address) { return *(const __global REAL2 *)address; }

static inline REAL8 load_REAL8(const __global REAL *address) { return *(const __global REAL8 *)address; }

static inline uint2 load_uint2(const __global uint *address) { return *(const __global uint2 *)address; }

static inline uint4 load_uint4(const __global uint *address) { return *(const __global uint4 *)address; }

static inline REAL8 load_local_REAL8(const __local REAL *address) { return *(const __local REAL8 *)address; }

static inline void store_local_REAL8(__local REAL *address, REAL8 value) { *(__local REAL8 *)address = value; }
