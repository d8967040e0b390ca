cmp w8, w25
movi v26.2d, #0000000000000000
movi v27.2d, #0000000000000000
csel w9, w8, w25, lt
movi v28.2d, #0000000000000000
movi v30.2d, #0000000000000000
sbfiz x13, x9, #2, #32
sbfiz x9, x9, #1, #32
subs x18, x18, #0x1
add w8, w8, #0x10
add x26, x7, x13
prfm pldl1strm, [x1, x13]
prfm pldl1strm, [x3, x13]
prfm pldl1strm, [x4, x13]
prfm pldl1strm, [x5, x13]
prfm pldl1strm, [x6, x9]
ldp q29, q31, [x26]
add x15, x28, x13
ldp q6, q5, [sp, #0x2f0]
add x14, x30, x13
ldp q16, q7, [sp, #0x2d0]
add x13, x10, x13
and v11.16b, v29.16b, v4.16b
ushr v12.4s, v29.4s, #0x4
mov v29.16b, v21.16b
and v8.16b, v31.16b, v4.16b
ushr v0.4s, v31.4s, #0x4
mov v31.16b, v21.16b
ldp q18, q17, [sp, #0x2b0]
add x9, x11, x9
sdot v26.4s, v11.16b, v5.16b
sdot v29.4s, v11.16b, v6.16b
and v12.16b, v12.16b, v4.16b
ldp q13, q11, [x15]
sdot v27.4s, v8.16b, v5.16b
sdot v31.4s, v8.16b, v6.16b
and v0.16b, v0.16b, v4.16b
sdot v26.4s, v12.16b, v7.16b
sdot v29.4s, v12.16b, v16.16b
and v14.16b, v13.16b, v4.16b
ldp q12, q8, [x26, #0x20]
and v1.16b, v11.16b, v4.16b
ushr v2.4s, v11.4s, #0x4
sdot v27.4s, v0.16b, v7.16b
sdot v31.4s, v0.16b, v16.16b
ushr v9.4s, v13.4s, #0x4
ldp q15, q13, [x14]
and v11.16b, v12.16b, v4.16b
ushr v3.4s, v12.4s, #0x4
mov v12.16b, v21.16b
sdot v26.4s, v14.16b, v17.16b
sdot v29.4s, v14.16b, v18.16b
and v14.16b, v8.16b, v4.16b
ushr v8.4s, v8.4s, #0x4
and v9.16b, v9.16b, v4.16b
sdot v27.4s, v1.16b, v17.16b
sdot v28.4s, v11.16b, v5.16b
sdot v12.4s, v11.16b, v6.16b
mov v11.16b, v21.16b
and v0.16b, v3.16b, v4.16b
sdot v30.4s, v14.16b, v5.16b
sdot v31.4s, v1.16b, v18.16b
ldp q3, q1, [x15, #0x20]
and v8.16b, v8.16b, v4.16b
sdot v11.4s, v14.16b, v6.16b
ldp q6, q5, [sp, #0x290]
and v10.16b, v15.16b, v4.16b
ushr v15.4s, v15.4s, #0x4
sdot v28.4s, v0.16b, v7.16b
sdot v30.4s, v8.16b, v7.16b
sdot v12.4s, v0.16b, v16.16b
and v0.16b, v1.16b, v4.16b
sdot v26.4s, v9.16b, v5.16b
sdot v29.4s, v9.16b, v6.16b
and v9.16b, v3.16b, v4.16b
ushr v3.4s, v3.4s, #0x4
and v2.16b, v2.16b, v4.16b
sdot v11.4s, v8.16b, v16.16b
and v14.16b, v15.16b, v4.16b
ldp q19, q15, [sp, #0x270]
ushr v1.4s, v1.4s, #0x4
sdot v28.4s, v9.16b, v17.16b
sdot v30.4s, v0.16b, v17.16b
sdot v27.4s, v2.16b, v5.16b
sdot v31.4s, v2.16b, v6.16b
and v3.16b, v3.16b, v4.16b
sdot v26.4s, v10.16b, v15.16b
sdot v29.4s, v10.16b, v19.16b
and v10.16b, v13.16b, v4.16b
sdot v12.4s, v9.16b, v18.16b
and v1.16b, v1.16b, v4.16b
ushr v9.4s, v13.4s, #0x4
sdot v11.4s, v0.16b, v18.16b
ldp q13, q0, [x14, #0x20]
ldp q2, q8, [x13]
sdot v28.4s, v3.16b, v5.16b
ldp q16, q7, [sp, #0x250]
sdot v27.4s, v10.16b, v15.16b
sdot v31.4s, v10.16b, v19.16b
and v10.16b, v13.16b, v4.16b
sdot v30.4s, v1.16b, v5.16b
sdot v12.4s, v3.16b, v6.16b
ushr v3.4s, v13.4s, #0x4
and v13.16b, v0.16b, v4.16b
sdot v26.4s, v14.16b, v7.16b
sdot v29.4s, v14.16b, v16.16b
and v14.16b, v2.16b, v4.16b
ushr v2.4s, v2.4s, #0x4
and v9.16b, v9.16b, v4.16b
ushr v0.4s, v0.4s, #0x4
sdot v11.4s, v1.16b, v6.16b
sdot v28.4s, v10.16b, v15.16b
sdot v30.4s, v13.16b, v15.16b
sdot v12.4s, v10.16b, v19.16b
and v1.16b, v2.16b, v4.16b
and v2.16b, v3.16b, v4.16b
sdot v27.4s, v9.16b, v7.16b
and v0.16b, v0.16b, v4.16b
sdot v31.4s, v9.16b, v16.16b
and v3.16b, v8.16b, v4.16b
ldp q9, q10, [x13, #0x20]
sdot v11.4s, v13.16b, v19.16b
sdot v28.4s, v2.16b, v7.16b
ushr v8.4s, v8.4s, #0x4
sdot v26.4s, v14.16b, v20.16b
sdot v30.4s, v0.16b, v7.16b
sdot v29.4s, v14.16b, v22.16b
sdot v12.4s, v2.16b, v16.16b
and v13.16b, v9.16b, v4.16b
ushr v2.4s, v9.4s, #0x4
and v9.16b, v10.16b, v4.16b
sdot v27.4s, v3.16b, v20.16b
ushr v10.4s, v10.4s, #0x4
sdot v11.4s, v0.16b, v16.16b
and v0.16b, v8.16b, v4.16b
sdot v26.4s, v1.16b, v23.16b
sdot v31.4s, v3.16b, v22.16b
sdot v28.4s, v13.16b, v20.16b
and v2.16b, v2.16b, v4.16b
sdot v30.4s, v9.16b, v20.16b
sdot v29.4s, v1.16b, v24.16b
and v1.16b, v10.16b, v4.16b
sdot v12.4s, v13.16b, v22.16b
sdot v27.4s, v0.16b, v23.16b
sdot v11.4s, v9.16b, v22.16b
shl v3.4s, v26.4s, #0x8
sdot v31.4s, v0.16b, v24.16b
ldp d26, d0, [x9]
sdot v28.4s, v2.16b, v23.16b
sdot v30.4s, v1.16b, v23.16b
sdot v12.4s, v2.16b, v24.16b
shl v27.4s, v27.4s, #0x8
sdot v11.4s, v1.16b, v24.16b
add v3.4s, v29.4s, v3.4s
fcvtl v26.4s, v26.4h
fcvtl v0.4s, v0.4h
shl v2.4s, v28.4s, #0x8
ldp d1, d28, [x9, #0x10]
shl v29.4s, v30.4s, #0x8
add v27.4s, v27.4s, v31.4s
scvtf v3.4s, v3.4s
ldp q30, q31, [x17, #-0x20]
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
ldp q3, q0, [x17]
fmla v3.4s, v1.4s, v2.4s
fmla v0.4s, v28.4s, v29.4s
stp q30, q31, [x17, #-0x20]
stp q3, q0, [x17], #0x40
b.ne 0x1950
