cmp w13, w29
movi v26.2d, #0000000000000000
movi v27.2d, #0000000000000000
csel w14, w13, w29, lt
cmp w0, w29
movi v28.2d, #0000000000000000
csel w16, w0, w29, lt
sbfiz x15, x14, #2, #32
sbfiz x14, x14, #1, #32
sbfiz x21, x16, #2, #32
movi v30.2d, #0000000000000000
add x1, x1, #0x1
prfm pldl1strm, [x7, x15]
prfm pldl1strm, [x30, x15]
prfm pldl1strm, [x10, x15]
add x19, x17, x21
prfm pldl1strm, [x11, x15]
prfm pldl1strm, [x9, x14]
ldp q31, q14, [x19]
add x25, x12, x21
ldp q29, q11, [x25]
ldr q18, [sp, #0x310]
ldp q17, q16, [sp, #0x320]
add x2, x8, x21
and v15.16b, v31.16b, v5.16b
ushr v10.4s, v31.4s, #0x4
add x14, x28, w16, sxtw #1
ldp q7, q31, [sp, #0x340]
and v12.16b, v29.16b, v5.16b
ushr v29.4s, v29.4s, #0x4
and v8.16b, v11.16b, v5.16b
ushr v4.4s, v11.4s, #0x4
ldp q1, q3, [x25, #0x20]
and v10.16b, v10.16b, v5.16b
mov v6.16b, v31.16b
sdot v26.4s, v12.16b, v7.16b
mov v11.16b, v31.16b
sdot v27.4s, v8.16b, v7.16b
ldp q9, q13, [x2]
and v0.16b, v1.16b, v5.16b
and v4.16b, v4.16b, v5.16b
cmp x1, x5
sdot v6.4s, v12.16b, v16.16b
and v12.16b, v29.16b, v5.16b
mov v29.16b, v31.16b
ushr v2.4s, v9.4s, #0x4
add w13, w13, #0x10
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
ldp q16, q7, [sp, #0x2f0]
and v8.16b, v9.16b, v5.16b
and v9.16b, v14.16b, v5.16b
and v3.16b, v3.16b, v5.16b
ldp q14, q31, [sp, #0x2d0]
sdot v29.4s, v4.16b, v18.16b
sdot v26.4s, v15.16b, v7.16b
sdot v6.4s, v15.16b, v16.16b
sdot v28.4s, v0.16b, v17.16b
sdot v11.4s, v0.16b, v18.16b
ldp q4, q0, [x19, #0x20]
sdot v30.4s, v3.16b, v17.16b
sdot v12.4s, v3.16b, v18.16b
sdot v27.4s, v9.16b, v7.16b
ldp q18, q17, [sp, #0x2b0]
sdot v29.4s, v9.16b, v16.16b
sdot v26.4s, v10.16b, v31.16b
sdot v6.4s, v10.16b, v14.16b
and v10.16b, v4.16b, v5.16b
and v1.16b, v1.16b, v5.16b
ushr v4.4s, v4.4s, #0x4
add x19, x18, x21
ldp q3, q9, [x19]
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
ldp q13, q8, [x2, #0x20]
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
ldp q4, q8, [x19, #0x20]
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
and v1.16b, v9.16b, v5.16b
sdot v29.4s, v2.16b, v22.16b
sdot v28.4s, v10.16b, v21.16b
sdot v30.4s, v4.16b, v21.16b
and v0.16b, v3.16b, v5.16b
and v2.16b, v8.16b, v5.16b
sdot v27.4s, v1.16b, v23.16b
sdot v11.4s, v10.16b, v22.16b
sdot v12.4s, v4.16b, v22.16b
shl v3.4s, v26.4s, #0x8
sdot v29.4s, v1.16b, v24.16b
ldp d4, d1, [x14]
sdot v28.4s, v0.16b, v23.16b
sdot v30.4s, v2.16b, v23.16b
shl v26.4s, v27.4s, #0x8
sdot v11.4s, v0.16b, v24.16b
add v3.4s, v6.4s, v3.4s
fcvtl v4.4s, v4.4h
sdot v12.4s, v2.16b, v24.16b
fcvtl v1.4s, v1.4h
ldp d2, d27, [x14, #0x10]
shl v0.4s, v28.4s, #0x8
shl v28.4s, v30.4s, #0x8
add v26.4s, v26.4s, v29.4s
ldp q29, q30, [x4, #-0x20]
scvtf v3.4s, v3.4s
fcvtl v2.4s, v2.4h
fcvtl v27.4s, v27.4h
fmul v4.4s, v4.4s, v25.s[0]
add v0.4s, v0.4s, v11.4s
add v28.4s, v28.4s, v12.4s
scvtf v26.4s, v26.4s
fmul v1.4s, v1.4s, v25.s[0]
scvtf v0.4s, v0.4s
fmul v2.4s, v2.4s, v25.s[0]
fmla v29.4s, v4.4s, v3.4s
scvtf v28.4s, v28.4s
fmul v27.4s, v27.4s, v25.s[0]
fmla v30.4s, v1.4s, v26.4s
ldp q3, q1, [x4]
fmla v3.4s, v2.4s, v0.4s
fmla v1.4s, v27.4s, v28.4s
stp q29, q30, [x4, #-0x20]
stp q3, q1, [x4], #0x40
b.lt 0x1ae4
