cmp w5, w22
movi v26.2d, #0000000000000000
movi v27.2d, #0000000000000000
csel w11, w5, w22, lt
cmp w29, w22
movi v28.2d, #0000000000000000
csel w27, w29, w22, lt
sbfiz x16, x11, #2, #32
sbfiz x0, x11, #1, #32
sbfiz x20, x27, #2, #32
movi v30.2d, #0000000000000000
add x13, x13, #0x1
prfm pldl1strm, [x12, x16]
prfm pldl1strm, [x3, x16]
prfm pldl1strm, [x6, x16]
add x21, x14, x20
prfm pldl1strm, [x8, x16]
prfm pldl1strm, [x9, x0]
ldp q31, q14, [x21]
add x11, x10, x20
ldp q29, q11, [x11]
ldr q18, [sp, #0x320]
ldp q17, q16, [sp, #0x330]
add x0, x15, x20
and v15.16b, v31.16b, v5.16b
ushr v10.4s, v31.4s, #0x4
cmp x13, x2
ldp q7, q31, [sp, #0x350]
and v12.16b, v29.16b, v5.16b
ushr v29.4s, v29.4s, #0x4
and v8.16b, v11.16b, v5.16b
ushr v4.4s, v11.4s, #0x4
ldp q0, q2, [x11, #0x20]
and v10.16b, v10.16b, v5.16b
mov v6.16b, v31.16b
sdot v26.4s, v12.16b, v7.16b
mov v11.16b, v31.16b
sdot v27.4s, v8.16b, v7.16b
ldp q9, q13, [x0]
and v3.16b, v0.16b, v5.16b
ushr v0.4s, v0.4s, #0x4
and v4.16b, v4.16b, v5.16b
sdot v6.4s, v12.16b, v16.16b
and v12.16b, v29.16b, v5.16b
mov v29.16b, v31.16b
ushr v1.4s, v9.4s, #0x4
add x11, x17, x20
add w5, w5, #0x10
sdot v28.4s, v3.16b, v7.16b
sdot v11.4s, v3.16b, v16.16b
ushr v3.4s, v14.4s, #0x4
sdot v29.4s, v8.16b, v16.16b
and v8.16b, v2.16b, v5.16b
sdot v26.4s, v12.16b, v17.16b
sdot v6.4s, v12.16b, v18.16b
mov v12.16b, v31.16b
ushr v2.4s, v2.4s, #0x4
and v0.16b, v0.16b, v5.16b
sdot v27.4s, v4.16b, v17.16b
and v3.16b, v3.16b, v5.16b
sdot v30.4s, v8.16b, v7.16b
and v1.16b, v1.16b, v5.16b
add w29, w29, #0x10
sdot v12.4s, v8.16b, v16.16b
ldp q16, q7, [sp, #0x300]
and v8.16b, v9.16b, v5.16b
and v9.16b, v14.16b, v5.16b
and v2.16b, v2.16b, v5.16b
ldp q14, q31, [sp, #0x2e0]
sdot v29.4s, v4.16b, v18.16b
sdot v26.4s, v15.16b, v7.16b
sdot v6.4s, v15.16b, v16.16b
sdot v28.4s, v0.16b, v17.16b
sdot v11.4s, v0.16b, v18.16b
ldp q4, q0, [x21, #0x20]
sdot v30.4s, v2.16b, v17.16b
sdot v12.4s, v2.16b, v18.16b
sdot v27.4s, v9.16b, v7.16b
ldp q18, q17, [sp, #0x2c0]
sdot v29.4s, v9.16b, v16.16b
sdot v26.4s, v10.16b, v31.16b
sdot v6.4s, v10.16b, v14.16b
and v10.16b, v4.16b, v5.16b
ushr v4.4s, v4.4s, #0x4
ldp q2, q9, [x11]
sdot v27.4s, v3.16b, v31.16b
sdot v28.4s, v10.16b, v7.16b
sdot v11.4s, v10.16b, v16.16b
sdot v29.4s, v3.16b, v14.16b
sdot v26.4s, v8.16b, v17.16b
sdot v6.4s, v8.16b, v18.16b
and v8.16b, v0.16b, v5.16b
ushr v0.4s, v0.4s, #0x4
and v4.16b, v4.16b, v5.16b
and v3.16b, v13.16b, v5.16b
and v10.16b, v2.16b, v5.16b
ushr v2.4s, v2.4s, #0x4
sdot v30.4s, v8.16b, v7.16b
sdot v12.4s, v8.16b, v16.16b
and v0.16b, v0.16b, v5.16b
sdot v26.4s, v1.16b, v19.16b
sdot v6.4s, v1.16b, v20.16b
ushr v1.4s, v13.4s, #0x4
ldp q13, q8, [x0, #0x20]
sdot v28.4s, v4.16b, v31.16b
sdot v27.4s, v3.16b, v17.16b
sdot v29.4s, v3.16b, v18.16b
sdot v30.4s, v0.16b, v31.16b
sdot v11.4s, v4.16b, v14.16b
sdot v12.4s, v0.16b, v14.16b
and v3.16b, v13.16b, v5.16b
ushr v4.4s, v13.4s, #0x4
and v13.16b, v8.16b, v5.16b
and v1.16b, v1.16b, v5.16b
ushr v8.4s, v8.4s, #0x4
and v0.16b, v2.16b, v5.16b
sdot v26.4s, v10.16b, v21.16b
sdot v6.4s, v10.16b, v22.16b
sdot v28.4s, v3.16b, v17.16b
sdot v30.4s, v13.16b, v17.16b
and v2.16b, v4.16b, v5.16b
sdot v27.4s, v1.16b, v19.16b
sdot v11.4s, v3.16b, v18.16b
and v3.16b, v8.16b, v5.16b
sdot v29.4s, v1.16b, v20.16b
and v1.16b, v9.16b, v5.16b
sdot v12.4s, v13.16b, v18.16b
ldp q4, q8, [x11, #0x20]
ushr v9.4s, v9.4s, #0x4
sdot v28.4s, v2.16b, v19.16b
sdot v30.4s, v3.16b, v19.16b
sdot v26.4s, v0.16b, v23.16b
sdot v11.4s, v2.16b, v20.16b
sdot v27.4s, v1.16b, v21.16b
sdot v6.4s, v0.16b, v24.16b
and v10.16b, v4.16b, v5.16b
ushr v2.4s, v4.4s, #0x4
and v4.16b, v8.16b, v5.16b
ushr v8.4s, v8.4s, #0x4
sdot v12.4s, v3.16b, v20.16b
add x11, x18, w27, sxtw #1
and v3.16b, v9.16b, v5.16b
sdot v29.4s, v1.16b, v22.16b
sdot v28.4s, v10.16b, v21.16b
sdot v30.4s, v4.16b, v21.16b
and v0.16b, v2.16b, v5.16b
and v1.16b, v8.16b, v5.16b
sdot v11.4s, v10.16b, v22.16b
shl v2.4s, v26.4s, #0x8
sdot v27.4s, v3.16b, v23.16b
sdot v12.4s, v4.16b, v22.16b
sdot v29.4s, v3.16b, v24.16b
ldp d4, d3, [x11]
sdot v28.4s, v0.16b, v23.16b
sdot v30.4s, v1.16b, v23.16b
add v2.4s, v6.4s, v2.4s
sdot v11.4s, v0.16b, v24.16b
shl v26.4s, v27.4s, #0x8
fcvtl v4.4s, v4.4h
sdot v12.4s, v1.16b, v24.16b
ldp d1, d27, [x11, #0x10]
fcvtl v3.4s, v3.4h
shl v0.4s, v28.4s, #0x8
shl v28.4s, v30.4s, #0x8
scvtf v2.4s, v2.4s
add v26.4s, v26.4s, v29.4s
ldp q29, q30, [x30]
fcvtl v1.4s, v1.4h
fcvtl v27.4s, v27.4h
fmul v4.4s, v4.4s, v25.s[0]
add v0.4s, v0.4s, v11.4s
add v28.4s, v28.4s, v12.4s
fmul v3.4s, v3.4s, v25.s[0]
scvtf v26.4s, v26.4s
scvtf v0.4s, v0.4s
fmul v1.4s, v1.4s, v25.s[0]
fmla v29.4s, v4.4s, v2.4s
scvtf v28.4s, v28.4s
fmul v27.4s, v27.4s, v25.s[0]
fmla v30.4s, v3.4s, v26.4s
ldp q2, q3, [x30, #0x20]
fmla v2.4s, v1.4s, v0.4s
fmla v3.4s, v27.4s, v28.4s
stp q29, q30, [x30]
stp q2, q3, [x30, #0x20]
add x30, x30, #0x40
b.lt 0x1c28
