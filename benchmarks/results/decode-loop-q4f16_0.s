cmp w15, w27
movi v26.2d, #0000000000000000
movi v4.16b, #0xf
csel w12, w15, w27, lt
movi v27.2d, #0000000000000000
movi v28.2d, #0000000000000000
add w2, w12, w23
sbfiz x26, x12, #2, #32
movi v30.2d, #0000000000000000
sbfiz x13, x2, #2, #32
add x2, x10, w12, sxtw #1
subs x14, x14, #0x1
add x21, x5, x26
add x12, x30, x26
add w15, w15, #0x10
prfm pldl1strm, [x5, x13]
prfm pldl1strm, [x7, x13]
prfm pldl1strm, [x30, x13]
prfm pldl1strm, [x11, x13]
prfm pldl1strm, [x2, x1]
add x13, x7, x26
ldp q29, q31, [x21]
ldp q7, q6, [sp, #0x300]
ldp q17, q16, [sp, #0x2e0]
and v11.16b, v29.16b, v9.16b
ushr v12.4s, v29.4s, #0x4
mov v29.16b, v5.16b
ushr v0.4s, v31.4s, #0x4
ldp q19, q18, [sp, #0x2c0]
sdot v26.4s, v11.16b, v6.16b
sdot v29.4s, v11.16b, v7.16b
and v12.16b, v12.16b, v9.16b
ldp q13, q11, [x13]
and v0.16b, v0.16b, v4.16b
and v14.16b, v13.16b, v9.16b
and v9.16b, v31.16b, v4.16b
mov v31.16b, v5.16b
sdot v26.4s, v12.16b, v16.16b
sdot v29.4s, v12.16b, v17.16b
and v1.16b, v11.16b, v4.16b
ushr v2.4s, v11.4s, #0x4
ushr v8.4s, v13.4s, #0x4
sdot v27.4s, v9.16b, v6.16b
sdot v31.4s, v9.16b, v7.16b
ldp q12, q9, [x21, #0x20]
sdot v26.4s, v14.16b, v18.16b
sdot v29.4s, v14.16b, v19.16b
and v8.16b, v8.16b, v4.16b
ldp q15, q13, [x12]
and v2.16b, v2.16b, v4.16b
and v11.16b, v12.16b, v4.16b
ushr v3.4s, v12.4s, #0x4
mov v12.16b, v5.16b
and v14.16b, v9.16b, v4.16b
sdot v27.4s, v0.16b, v16.16b
sdot v31.4s, v0.16b, v17.16b
ushr v9.4s, v9.4s, #0x4
and v10.16b, v15.16b, v4.16b
ushr v15.4s, v15.4s, #0x4
sdot v28.4s, v11.16b, v6.16b
sdot v12.4s, v11.16b, v7.16b
mov v11.16b, v5.16b
and v0.16b, v3.16b, v4.16b
sdot v30.4s, v14.16b, v6.16b
sdot v27.4s, v1.16b, v18.16b
sdot v31.4s, v1.16b, v19.16b
and v9.16b, v9.16b, v4.16b
sdot v11.4s, v14.16b, v7.16b
ldp q7, q6, [sp, #0x2a0]
ldp q3, q1, [x13, #0x20]
sdot v28.4s, v0.16b, v16.16b
sdot v30.4s, v9.16b, v16.16b
sdot v12.4s, v0.16b, v17.16b
and v14.16b, v15.16b, v4.16b
sdot v26.4s, v8.16b, v6.16b
sdot v29.4s, v8.16b, v7.16b
sdot v27.4s, v2.16b, v6.16b
and v8.16b, v3.16b, v4.16b
sdot v11.4s, v9.16b, v17.16b
ushr v3.4s, v3.4s, #0x4
and v0.16b, v1.16b, v4.16b
ldp q20, q15, [sp, #0x280]
ushr v1.4s, v1.4s, #0x4
sdot v31.4s, v2.16b, v7.16b
add x13, x11, x26
sdot v28.4s, v8.16b, v18.16b
and v3.16b, v3.16b, v4.16b
sdot v12.4s, v8.16b, v19.16b
sdot v30.4s, v0.16b, v18.16b
sdot v11.4s, v0.16b, v19.16b
sdot v26.4s, v10.16b, v15.16b
sdot v29.4s, v10.16b, v20.16b
and v10.16b, v13.16b, v4.16b
and v1.16b, v1.16b, v4.16b
ushr v8.4s, v13.4s, #0x4
ldp q13, q0, [x12, #0x20]
ldp q2, q9, [x13]
sdot v28.4s, v3.16b, v6.16b
ldp q17, q16, [sp, #0x260]
sdot v27.4s, v10.16b, v15.16b
sdot v31.4s, v10.16b, v20.16b
and v10.16b, v13.16b, v4.16b
sdot v30.4s, v1.16b, v6.16b
sdot v11.4s, v1.16b, v7.16b
sdot v12.4s, v3.16b, v7.16b
ushr v3.4s, v13.4s, #0x4
sdot v26.4s, v14.16b, v16.16b
sdot v29.4s, v14.16b, v17.16b
and v14.16b, v2.16b, v4.16b
ushr v2.4s, v2.4s, #0x4
and v13.16b, v0.16b, v4.16b
and v8.16b, v8.16b, v4.16b
ushr v0.4s, v0.4s, #0x4
sdot v28.4s, v10.16b, v15.16b
sdot v12.4s, v10.16b, v20.16b
and v1.16b, v2.16b, v4.16b
and v2.16b, v3.16b, v4.16b
sdot v30.4s, v13.16b, v15.16b
sdot v11.4s, v13.16b, v20.16b
sdot v27.4s, v8.16b, v16.16b
and v0.16b, v0.16b, v4.16b
sdot v31.4s, v8.16b, v17.16b
and v3.16b, v9.16b, v4.16b
ushr v9.4s, v9.4s, #0x4
ldp q8, q10, [x13, #0x20]
sdot v28.4s, v2.16b, v16.16b
sdot v26.4s, v14.16b, v21.16b
sdot v30.4s, v0.16b, v16.16b
sdot v29.4s, v14.16b, v22.16b
sdot v11.4s, v0.16b, v17.16b
and v0.16b, v9.16b, v4.16b
movi v9.16b, #0xf
and v13.16b, v8.16b, v4.16b
sdot v12.4s, v2.16b, v17.16b
ushr v2.4s, v8.4s, #0x4
and v8.16b, v10.16b, v4.16b
sdot v27.4s, v3.16b, v21.16b
ushr v10.4s, v10.4s, #0x4
sdot v26.4s, v1.16b, v23.16b
sdot v31.4s, v3.16b, v22.16b
sdot v29.4s, v1.16b, v24.16b
sdot v28.4s, v13.16b, v21.16b
and v2.16b, v2.16b, v9.16b
sdot v30.4s, v8.16b, v21.16b
and v1.16b, v10.16b, v9.16b
sdot v12.4s, v13.16b, v22.16b
sdot v27.4s, v0.16b, v23.16b
sdot v11.4s, v8.16b, v22.16b
shl v3.4s, v26.4s, #0x8
sdot v31.4s, v0.16b, v24.16b
sdot v28.4s, v2.16b, v23.16b
ldp d26, d0, [x2]
sdot v30.4s, v1.16b, v23.16b
sdot v12.4s, v2.16b, v24.16b
shl v27.4s, v27.4s, #0x8
sdot v11.4s, v1.16b, v24.16b
add v3.4s, v29.4s, v3.4s
fcvtl v26.4s, v26.4h
fcvtl v0.4s, v0.4h
shl v2.4s, v28.4s, #0x8
ldp d1, d28, [x2, #0x10]
shl v29.4s, v30.4s, #0x8
add v27.4s, v27.4s, v31.4s
scvtf v3.4s, v3.4s
ldp q30, q31, [x16]
fcvtl v1.4s, v1.4h
fcvtl v28.4s, v28.4h
add v2.4s, v2.4s, v12.4s
fmul v26.4s, v26.4s, v25.s[0]
add v29.4s, v29.4s, v11.4s
scvtf v27.4s, v27.4s
fmul v0.4s, v0.4s, v25.s[0]
scvtf v2.4s, v2.4s
fmul v1.4s, v1.4s, v25.s[0]
scvtf v29.4s, v29.4s
fmul v28.4s, v28.4s, v25.s[0]
fmla v30.4s, v26.4s, v3.4s
fmla v31.4s, v0.4s, v27.4s
ldp q3, q0, [x16, #0x20]
fmla v3.4s, v1.4s, v2.4s
fmla v0.4s, v28.4s, v29.4s
stp q30, q31, [x16]
stp q3, q0, [x16, #0x20]
add x16, x16, #0x40
b.ne 0x1bf0
