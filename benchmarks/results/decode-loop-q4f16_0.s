cmp w29, w19
movi v26.2d, #0000000000000000
movi v27.2d, #0000000000000000
csel w8, w29, w19, lt
cmp w0, w19
movi v28.2d, #0000000000000000
csel w26, w0, w19, lt
sbfiz x13, x8, #2, #32
sbfiz x14, x8, #1, #32
sbfiz x20, x26, #2, #32
movi v30.2d, #0000000000000000
add x1, x1, #0x1
prfm pldl1strm, [x7, x13]
prfm pldl1strm, [x30, x13]
prfm pldl1strm, [x10, x13]
prfm pldl1strm, [x11, x13]
add x13, x17, x20
prfm pldl1strm, [x9, x14]
ldp q31, q14, [x13]
add x8, x12, x20
ldp q29, q11, [x8]
ldr q18, [sp, #0x2f0]
ldp q17, q16, [sp, #0x300]
add x14, x21, x20
and v15.16b, v31.16b, v5.16b
ushr v10.4s, v31.4s, #0x4
cmp x1, x5
ldp q7, q31, [sp, #0x320]
and v12.16b, v29.16b, v5.16b
ushr v29.4s, v29.4s, #0x4
and v8.16b, v11.16b, v5.16b
ushr v4.4s, v11.4s, #0x4
ldp q1, q3, [x8, #0x20]
and v10.16b, v10.16b, v5.16b
mov v6.16b, v31.16b
sdot v26.4s, v12.16b, v7.16b
mov v11.16b, v31.16b
sdot v27.4s, v8.16b, v7.16b
ldp q9, q13, [x14]
and v0.16b, v1.16b, v5.16b
and v4.16b, v4.16b, v5.16b
add x8, x27, x20
sdot v6.4s, v12.16b, v16.16b
and v12.16b, v29.16b, v5.16b
mov v29.16b, v31.16b
ushr v2.4s, v9.4s, #0x4
add w29, w29, #0x10
add w0, w0, #0x10
sdot v28.4s, v0.16b, v7.16b
sdot v11.4s, v0.16b, v16.16b
ushr v0.4s, v1.4s, #0x4
sdot v29.4s, v8.16b, v16.16b
and v8.16b, v3.16b, v5.16b
sdot v26.4s, v12.16b, v17.16b
sdot v6.4s, v12.16b, v18.16b
mov v12.16b, v31.16b
ushr v3.4s, v3.4s, #0x4
ushr v1.4s, v14.4s, #0x4
and v0.16b, v0.16b, v5.16b
sdot v27.4s, v4.16b, v17.16b
sdot v30.4s, v8.16b, v7.16b
and v2.16b, v2.16b, v5.16b
sdot v12.4s, v8.16b, v16.16b
ldp q16, q7, [sp, #0x2d0]
and v8.16b, v9.16b, v5.16b
and v9.16b, v14.16b, v5.16b
and v3.16b, v3.16b, v5.16b
ldp q14, q31, [sp, #0x2b0]
sdot v29.4s, v4.16b, v18.16b
sdot v26.4s, v15.16b, v7.16b
sdot v6.4s, v15.16b, v16.16b
sdot v28.4s, v0.16b, v17.16b
sdot v11.4s, v0.16b, v18.16b
ldp q4, q0, [x13, #0x20]
sdot v30.4s, v3.16b, v17.16b
sdot v12.4s, v3.16b, v18.16b
sdot v27.4s, v9.16b, v7.16b
ldp q18, q17, [sp, #0x290]
sdot v29.4s, v9.16b, v16.16b
sdot v26.4s, v10.16b, v31.16b
sdot v6.4s, v10.16b, v14.16b
and v10.16b, v4.16b, v5.16b
and v1.16b, v1.16b, v5.16b
ushr v4.4s, v4.4s, #0x4
ldp q3, q9, [x8]
sdot v28.4s, v10.16b, v7.16b
sdot v11.4s, v10.16b, v16.16b
sdot v26.4s, v8.16b, v17.16b
sdot v6.4s, v8.16b, v18.16b
and v8.16b, v0.16b, v5.16b
ushr v0.4s, v0.4s, #0x4
sdot v27.4s, v1.16b, v31.16b
sdot v29.4s, v1.16b, v14.16b
and v4.16b, v4.16b, v5.16b
and v1.16b, v13.16b, v5.16b
and v10.16b, v3.16b, v5.16b
sdot v30.4s, v8.16b, v7.16b
sdot v12.4s, v8.16b, v16.16b
ushr v3.4s, v3.4s, #0x4
and v0.16b, v0.16b, v5.16b
sdot v26.4s, v2.16b, v19.16b
sdot v6.4s, v2.16b, v20.16b
ushr v2.4s, v13.4s, #0x4
ldp q13, q8, [x14, #0x20]
sdot v28.4s, v4.16b, v31.16b
sdot v27.4s, v1.16b, v17.16b
sdot v29.4s, v1.16b, v18.16b
sdot v30.4s, v0.16b, v31.16b
sdot v11.4s, v4.16b, v14.16b
sdot v12.4s, v0.16b, v14.16b
and v1.16b, v13.16b, v5.16b
ushr v4.4s, v13.4s, #0x4
and v13.16b, v8.16b, v5.16b
and v2.16b, v2.16b, v5.16b
ushr v8.4s, v8.4s, #0x4
and v0.16b, v3.16b, v5.16b
sdot v26.4s, v10.16b, v21.16b
sdot v6.4s, v10.16b, v22.16b
sdot v28.4s, v1.16b, v17.16b
sdot v30.4s, v13.16b, v17.16b
and v3.16b, v4.16b, v5.16b
sdot v27.4s, v2.16b, v19.16b
sdot v11.4s, v1.16b, v18.16b
and v1.16b, v8.16b, v5.16b
sdot v29.4s, v2.16b, v20.16b
and v2.16b, v9.16b, v5.16b
sdot v12.4s, v13.16b, v18.16b
ldp q4, q8, [x8, #0x20]
ushr v9.4s, v9.4s, #0x4
sdot v28.4s, v3.16b, v19.16b
sdot v30.4s, v1.16b, v19.16b
sdot v26.4s, v0.16b, v23.16b
sdot v11.4s, v3.16b, v20.16b
sdot v27.4s, v2.16b, v21.16b
sdot v6.4s, v0.16b, v24.16b
and v10.16b, v4.16b, v5.16b
ushr v3.4s, v4.4s, #0x4
and v4.16b, v8.16b, v5.16b
ushr v8.4s, v8.4s, #0x4
sdot v12.4s, v1.16b, v20.16b
add x8, x25, w26, sxtw #1
and v1.16b, v9.16b, v5.16b
sdot v29.4s, v2.16b, v22.16b
sdot v28.4s, v10.16b, v21.16b
sdot v30.4s, v4.16b, v21.16b
and v0.16b, v3.16b, v5.16b
and v2.16b, v8.16b, v5.16b
sdot v11.4s, v10.16b, v22.16b
shl v3.4s, v26.4s, #0x8
sdot v27.4s, v1.16b, v23.16b
sdot v12.4s, v4.16b, v22.16b
sdot v29.4s, v1.16b, v24.16b
ldp d4, d1, [x8]
sdot v28.4s, v0.16b, v23.16b
sdot v30.4s, v2.16b, v23.16b
add v3.4s, v6.4s, v3.4s
sdot v11.4s, v0.16b, v24.16b
shl v26.4s, v27.4s, #0x8
fcvtl v4.4s, v4.4h
sdot v12.4s, v2.16b, v24.16b
ldp d2, d27, [x8, #0x10]
fcvtl v1.4s, v1.4h
shl v0.4s, v28.4s, #0x8
shl v28.4s, v30.4s, #0x8
scvtf v3.4s, v3.4s
add v26.4s, v26.4s, v29.4s
ldp q29, q30, [x3, #-0x20]
fcvtl v2.4s, v2.4h
fcvtl v27.4s, v27.4h
fmul v4.4s, v4.4s, v25.s[0]
add v0.4s, v0.4s, v11.4s
add v28.4s, v28.4s, v12.4s
fmul v1.4s, v1.4s, v25.s[0]
scvtf v26.4s, v26.4s
scvtf v0.4s, v0.4s
fmul v2.4s, v2.4s, v25.s[0]
fmla v29.4s, v4.4s, v3.4s
scvtf v28.4s, v28.4s
fmul v27.4s, v27.4s, v25.s[0]
fmla v30.4s, v1.4s, v26.4s
ldp q3, q1, [x3]
fmla v3.4s, v2.4s, v0.4s
fmla v1.4s, v27.4s, v28.4s
stp q29, q30, [x3, #-0x20]
stp q3, q1, [x3], #0x40
b.lt 0x1a28
