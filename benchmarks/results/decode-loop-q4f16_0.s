stp q29, q28, [x12]
stp q27, q26, [x12, #0x20]
add x11, x11, #0x1
add w15, w15, #0x10
add x27, x27, #0x40
cmp x13, x11
b.eq 0x1c08
cmp w15, w26
movi v6.16b, #0xf
movi v26.2d, #0000000000000000
csel w20, w15, w26, lt
movi v27.2d, #0000000000000000
movi v29.2d, #0000000000000000
add w23, w20, w25
sbfiz x12, x20, #2, #32
add x20, x7, w20, sxtw #1
sbfiz x28, x23, #2, #32
cmp x11, x1
add x23, x3, x12
add x29, x4, x12
prfm pldl1strm, [x3, x28]
prfm pldl1strm, [x4, x28]
prfm pldl1strm, [x5, x28]
prfm pldl1strm, [x6, x28]
prfm pldl1strm, [x20, x24]
ldr q7, [sp, #0x2a0]
ldp q28, q31, [x23]
add x28, x5, x12
ldp q17, q16, [sp, #0x370]
add x12, x6, x12
ldp q19, q18, [sp, #0x350]
and v30.16b, v28.16b, v6.16b
ushr v11.4s, v28.4s, #0x4
mov v28.16b, v7.16b
ldp q12, q15, [x29]
and v9.16b, v31.16b, v6.16b
ushr v31.4s, v31.4s, #0x4
ldp q21, q20, [sp, #0x330]
sdot v26.4s, v30.16b, v16.16b
sdot v28.4s, v30.16b, v17.16b
and v11.16b, v11.16b, v6.16b
movi v30.2d, #0000000000000000
and v10.16b, v12.16b, v6.16b
ushr v12.4s, v12.4s, #0x4
and v5.16b, v31.16b, v6.16b
mov v31.16b, v7.16b
sdot v27.4s, v9.16b, v16.16b
ldp q14, q13, [x28]
and v1.16b, v15.16b, v6.16b
sdot v26.4s, v11.16b, v18.16b
sdot v28.4s, v11.16b, v19.16b
and v12.16b, v12.16b, v6.16b
ldp q11, q0, [x23, #0x20]
sdot v31.4s, v9.16b, v17.16b
sdot v27.4s, v5.16b, v18.16b
ushr v15.4s, v15.4s, #0x4
and v8.16b, v14.16b, v6.16b
ushr v14.4s, v14.4s, #0x4
and v2.16b, v11.16b, v6.16b
and v4.16b, v0.16b, v6.16b
sdot v26.4s, v10.16b, v20.16b
sdot v28.4s, v10.16b, v21.16b
ushr v3.4s, v11.4s, #0x4
ushr v0.4s, v0.4s, #0x4
mov v11.16b, v7.16b
sdot v31.4s, v5.16b, v19.16b
sdot v27.4s, v1.16b, v20.16b
sdot v29.4s, v2.16b, v16.16b
sdot v30.4s, v4.16b, v16.16b
and v9.16b, v15.16b, v6.16b
ldp q22, q16, [sp, #0x310]
and v0.16b, v0.16b, v6.16b
sdot v11.4s, v2.16b, v17.16b
and v2.16b, v3.16b, v6.16b
and v10.16b, v14.16b, v6.16b
sdot v31.4s, v1.16b, v21.16b
sdot v26.4s, v12.16b, v16.16b
sdot v28.4s, v12.16b, v22.16b
mov v12.16b, v7.16b
sdot v29.4s, v2.16b, v18.16b
sdot v30.4s, v0.16b, v18.16b
sdot v27.4s, v9.16b, v16.16b
sdot v11.4s, v2.16b, v19.16b
sdot v12.4s, v4.16b, v17.16b
ldp q3, q4, [x29, #0x20]
ldp q17, q7, [sp, #0x2f0]
sdot v31.4s, v9.16b, v22.16b
ushr v5.4s, v3.4s, #0x4
ushr v2.4s, v4.4s, #0x4
and v3.16b, v3.16b, v6.16b
and v4.16b, v4.16b, v6.16b
sdot v12.4s, v0.16b, v19.16b
sdot v26.4s, v8.16b, v7.16b
sdot v28.4s, v8.16b, v17.16b
ldp q19, q18, [sp, #0x2d0]
sdot v29.4s, v3.16b, v20.16b
and v5.16b, v5.16b, v6.16b
and v2.16b, v2.16b, v6.16b
sdot v30.4s, v4.16b, v20.16b
sdot v11.4s, v3.16b, v21.16b
and v8.16b, v13.16b, v6.16b
sdot v12.4s, v4.16b, v21.16b
ldp q4, q9, [x28, #0x20]
sdot v26.4s, v10.16b, v18.16b
sdot v28.4s, v10.16b, v19.16b
ushr v10.4s, v13.4s, #0x4
sdot v29.4s, v5.16b, v16.16b
sdot v27.4s, v8.16b, v7.16b
sdot v31.4s, v8.16b, v17.16b
sdot v30.4s, v2.16b, v16.16b
sdot v11.4s, v5.16b, v22.16b
and v5.16b, v4.16b, v6.16b
and v13.16b, v9.16b, v6.16b
ushr v4.4s, v4.4s, #0x4
ushr v8.4s, v9.4s, #0x4
and v9.16b, v10.16b, v6.16b
sdot v12.4s, v2.16b, v22.16b
ldr q16, [sp, #0x2c0]
sdot v29.4s, v5.16b, v7.16b
ldp q0, q1, [x12]
sdot v30.4s, v13.16b, v7.16b
sdot v11.4s, v5.16b, v17.16b
and v2.16b, v4.16b, v6.16b
and v4.16b, v8.16b, v6.16b
sdot v27.4s, v9.16b, v18.16b
sdot v31.4s, v9.16b, v19.16b
ldp q8, q9, [x12, #0x20]
sdot v12.4s, v13.16b, v17.16b
and v3.16b, v0.16b, v6.16b
sdot v29.4s, v2.16b, v18.16b
ushr v0.4s, v0.4s, #0x4
sdot v30.4s, v4.16b, v18.16b
and v5.16b, v1.16b, v6.16b
sdot v11.4s, v2.16b, v19.16b
and v2.16b, v8.16b, v6.16b
and v10.16b, v9.16b, v6.16b
ushr v1.4s, v1.4s, #0x4
ushr v8.4s, v8.4s, #0x4
ushr v9.4s, v9.4s, #0x4
ldr q7, [sp, #0x2b0]
sdot v26.4s, v3.16b, v16.16b
sdot v12.4s, v4.16b, v19.16b
sdot v27.4s, v5.16b, v16.16b
and v0.16b, v0.16b, v6.16b
sdot v28.4s, v3.16b, v7.16b
sdot v29.4s, v2.16b, v16.16b
sdot v30.4s, v10.16b, v16.16b
and v1.16b, v1.16b, v6.16b
and v3.16b, v8.16b, v6.16b
and v4.16b, v9.16b, v6.16b
sdot v31.4s, v5.16b, v7.16b
sdot v11.4s, v2.16b, v7.16b
sdot v26.4s, v0.16b, v23.16b
sdot v12.4s, v10.16b, v7.16b
add x12, x27, x16
sdot v27.4s, v1.16b, v23.16b
sdot v29.4s, v3.16b, v23.16b
sdot v28.4s, v0.16b, v24.16b
sdot v30.4s, v4.16b, v23.16b
ldp d2, d0, [x20]
sdot v31.4s, v1.16b, v24.16b
sdot v11.4s, v3.16b, v24.16b
sdot v12.4s, v4.16b, v24.16b
fcvtl v1.4s, v2.4h
shl v2.4s, v26.4s, #0x8
shl v5.4s, v27.4s, #0x8
ldp d3, d26, [x20, #0x10]
shl v4.4s, v29.4s, #0x8
shl v27.4s, v30.4s, #0x8
fcvtl v0.4s, v0.4h
add v2.4s, v28.4s, v2.4s
add v5.4s, v5.4s, v31.4s
fcvtl v3.4s, v3.4h
fcvtl v26.4s, v26.4h
add v4.4s, v4.4s, v11.4s
add v27.4s, v27.4s, v12.4s
fmul v1.4s, v1.4s, v25.s[0]
scvtf v2.4s, v2.4s
fmul v0.4s, v0.4s, v25.s[0]
scvtf v5.4s, v5.4s
scvtf v4.4s, v4.4s
fmul v3.4s, v3.4s, v25.s[0]
fmul v26.4s, v26.4s, v25.s[0]
scvtf v30.4s, v27.4s
fmul v29.4s, v1.4s, v2.4s
fmul v28.4s, v0.4s, v5.4s
fmul v27.4s, v3.4s, v4.4s
fmul v26.4s, v26.4s, v30.4s
b.lt 0x1d10
