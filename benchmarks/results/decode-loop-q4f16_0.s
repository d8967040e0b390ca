stp q29, q28, [x12]
stp q27, q26, [x12, #0x20]
add x11, x11, #0x1
add w15, w15, #0x10
add x27, x27, #0x40
cmp x13, x11
b.eq 0x1c08
cmp w15, w26
movi v5.16b, #0xf
movi v26.2d, #0000000000000000
csel w12, w15, w26, lt
movi v27.2d, #0000000000000000
movi v28.2d, #0000000000000000
add w23, w12, w25
sbfiz x20, x12, #2, #32
add x12, x7, w12, sxtw #1
sbfiz x29, x23, #2, #32
movi v29.2d, #0000000000000000
cmp x11, x1
add x28, x3, x20
add x23, x4, x20
prfm pldl1strm, [x3, x29]
prfm pldl1strm, [x4, x29]
prfm pldl1strm, [x5, x29]
prfm pldl1strm, [x6, x29]
prfm pldl1strm, [x12, x24]
ldr q12, [sp, #0x2a0]
ldp q30, q11, [x28]
ldp q31, q14, [x23]
ldp q8, q1, [x28, #0x20]
add x28, x5, x20
and v4.16b, v30.16b, v5.16b
ushr v13.16b, v30.16b, #0x4
and v9.16b, v11.16b, v5.16b
and v15.16b, v31.16b, v5.16b
ushr v10.16b, v31.16b, #0x4
mov v30.16b, v12.16b
ldp q7, q6, [sp, #0x320]
mov v31.16b, v12.16b
and v2.16b, v8.16b, v5.16b
and v3.16b, v1.16b, v5.16b
ushr v0.16b, v11.16b, #0x4
mov v11.16b, v12.16b
ldp q17, q16, [sp, #0x300]
sdot v26.4s, v4.16b, v6.16b
sdot v30.4s, v4.16b, v7.16b
sdot v27.4s, v9.16b, v6.16b
sdot v31.4s, v9.16b, v7.16b
sdot v28.4s, v2.16b, v6.16b
sdot v29.4s, v3.16b, v6.16b
sdot v11.4s, v2.16b, v7.16b
ushr v8.16b, v8.16b, #0x4
ushr v1.16b, v1.16b, #0x4
sdot v12.4s, v3.16b, v7.16b
ldp q7, q6, [sp, #0x2e0]
sdot v26.4s, v13.16b, v16.16b
sdot v30.4s, v13.16b, v17.16b
sdot v27.4s, v0.16b, v16.16b
sdot v31.4s, v0.16b, v17.16b
and v13.16b, v14.16b, v5.16b
sdot v28.4s, v8.16b, v16.16b
ldp q0, q3, [x23, #0x20]
sdot v29.4s, v1.16b, v16.16b
sdot v11.4s, v8.16b, v17.16b
sdot v12.4s, v1.16b, v17.16b
ushr v14.16b, v14.16b, #0x4
sdot v26.4s, v15.16b, v6.16b
sdot v30.4s, v15.16b, v7.16b
sdot v27.4s, v13.16b, v6.16b
sdot v31.4s, v13.16b, v7.16b
and v8.16b, v0.16b, v5.16b
and v13.16b, v3.16b, v5.16b
ldp q17, q16, [sp, #0x2c0]
ushr v0.16b, v0.16b, #0x4
ldp q9, q2, [x28]
ushr v3.16b, v3.16b, #0x4
sdot v28.4s, v8.16b, v6.16b
sdot v29.4s, v13.16b, v6.16b
sdot v11.4s, v8.16b, v7.16b
sdot v26.4s, v10.16b, v16.16b
sdot v30.4s, v10.16b, v17.16b
sdot v12.4s, v13.16b, v7.16b
and v4.16b, v9.16b, v5.16b
ldp q8, q10, [x28, #0x20]
sdot v27.4s, v14.16b, v16.16b
ldr q6, [sp, #0x2b0]
and v1.16b, v2.16b, v5.16b
sdot v28.4s, v0.16b, v16.16b
sdot v29.4s, v3.16b, v16.16b
sdot v31.4s, v14.16b, v17.16b
sdot v26.4s, v4.16b, v6.16b
and v13.16b, v8.16b, v5.16b
sdot v30.4s, v4.16b, v18.16b
and v4.16b, v10.16b, v5.16b
sdot v11.4s, v0.16b, v17.16b
sdot v12.4s, v3.16b, v17.16b
sdot v27.4s, v1.16b, v6.16b
ushr v9.16b, v9.16b, #0x4
ushr v2.16b, v2.16b, #0x4
add x20, x6, x20
sdot v28.4s, v13.16b, v6.16b
sdot v31.4s, v1.16b, v18.16b
sdot v29.4s, v4.16b, v6.16b
ldp q0, q3, [x20]
ushr v1.16b, v8.16b, #0x4
ushr v8.16b, v10.16b, #0x4
sdot v11.4s, v13.16b, v18.16b
sdot v12.4s, v4.16b, v18.16b
ldp q4, q13, [x20, #0x20]
sdot v26.4s, v9.16b, v19.16b
sdot v27.4s, v2.16b, v19.16b
and v14.16b, v0.16b, v5.16b
and v10.16b, v3.16b, v5.16b
sdot v30.4s, v9.16b, v20.16b
sdot v28.4s, v1.16b, v19.16b
sdot v29.4s, v8.16b, v19.16b
sdot v31.4s, v2.16b, v20.16b
and v2.16b, v4.16b, v5.16b
and v9.16b, v13.16b, v5.16b
sdot v11.4s, v1.16b, v20.16b
sdot v12.4s, v8.16b, v20.16b
sdot v26.4s, v14.16b, v21.16b
sdot v27.4s, v10.16b, v21.16b
ushr v0.16b, v0.16b, #0x4
ushr v1.16b, v3.16b, #0x4
sdot v30.4s, v14.16b, v22.16b
sdot v28.4s, v2.16b, v21.16b
sdot v29.4s, v9.16b, v21.16b
ushr v3.16b, v4.16b, #0x4
ushr v4.16b, v13.16b, #0x4
sdot v31.4s, v10.16b, v22.16b
sdot v11.4s, v2.16b, v22.16b
sdot v12.4s, v9.16b, v22.16b
sdot v26.4s, v0.16b, v23.16b
sdot v27.4s, v1.16b, v23.16b
sdot v28.4s, v3.16b, v23.16b
sdot v30.4s, v0.16b, v24.16b
ldp d2, d0, [x12]
sdot v29.4s, v4.16b, v23.16b
sdot v31.4s, v1.16b, v24.16b
sdot v11.4s, v3.16b, v24.16b
sdot v12.4s, v4.16b, v24.16b
fcvtl v1.4s, v2.4h
shl v2.4s, v26.4s, #0x8
shl v26.4s, v27.4s, #0x8
ldp d3, d27, [x12, #0x10]
shl v4.4s, v28.4s, #0x8
shl v28.4s, v29.4s, #0x8
fcvtl v0.4s, v0.4h
add x12, x27, x16
add v2.4s, v30.4s, v2.4s
add v26.4s, v26.4s, v31.4s
fcvtl v3.4s, v3.4h
fcvtl v27.4s, v27.4h
add v4.4s, v4.4s, v11.4s
add v28.4s, v28.4s, v12.4s
fmul v1.4s, v1.4s, v25.s[0]
scvtf v2.4s, v2.4s
fmul v0.4s, v0.4s, v25.s[0]
scvtf v26.4s, v26.4s
scvtf v4.4s, v4.4s
fmul v3.4s, v3.4s, v25.s[0]
fmul v30.4s, v27.4s, v25.s[0]
scvtf v31.4s, v28.4s
fmul v29.4s, v1.4s, v2.4s
fmul v28.4s, v0.4s, v26.4s
fmul v27.4s, v3.4s, v4.4s
fmul v26.4s, v30.4s, v31.4s
b.lt 0x1d08
