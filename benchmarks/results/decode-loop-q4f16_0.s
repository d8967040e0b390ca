cmp w19, w25
movi v26.2d, #0000000000000000
movi v5.16b, #0xf
csel w12, w19, w25, lt
cmp w5, w25
movi v27.2d, #0000000000000000
csel w24, w5, w25, lt
sbfiz x13, x12, #2, #32
sbfiz x12, x12, #1, #32
sbfiz x20, x24, #2, #32
movi v28.2d, #0000000000000000
movi v30.2d, #0000000000000000
prfm pldl1strm, [x30, x13]
prfm pldl1strm, [x11, x13]
prfm pldl1strm, [x10, x13]
prfm pldl1strm, [x29, x13]
prfm pldl1strm, [x26, x12]
add x12, x23, x20
ldp q31, q14, [x12]
add x13, x28, x20
ldp q29, q11, [x13]
ldr q18, [sp, #0x2d0]
ldp q17, q16, [sp, #0x2e0]
add x15, x27, x20
and v15.16b, v31.16b, v10.16b
ushr v8.4s, v31.4s, #0x4
add x7, x7, #0x1
ldp q7, q31, [sp, #0x300]
and v12.16b, v29.16b, v10.16b
ushr v29.4s, v29.4s, #0x4
and v9.16b, v11.16b, v10.16b
ushr v4.4s, v11.4s, #0x4
ldp q0, q2, [x13, #0x20]
and v8.16b, v8.16b, v5.16b
mov v6.16b, v31.16b
sdot v26.4s, v12.16b, v7.16b
mov v11.16b, v31.16b
sdot v27.4s, v9.16b, v7.16b
ldp q10, q13, [x15]
and v3.16b, v0.16b, v5.16b
ushr v0.4s, v0.4s, #0x4
and v4.16b, v4.16b, v5.16b
sdot v6.4s, v12.16b, v16.16b
and v12.16b, v29.16b, v5.16b
mov v29.16b, v31.16b
ushr v1.4s, v10.4s, #0x4
cmp x7, x8
add w19, w19, #0x10
sdot v28.4s, v3.16b, v7.16b
sdot v11.4s, v3.16b, v16.16b
ushr v3.4s, v14.4s, #0x4
sdot v29.4s, v9.16b, v16.16b
and v9.16b, v2.16b, v5.16b
sdot v26.4s, v12.16b, v17.16b
sdot v6.4s, v12.16b, v18.16b
mov v12.16b, v31.16b
ushr v2.4s, v2.4s, #0x4
and v0.16b, v0.16b, v5.16b
sdot v27.4s, v4.16b, v17.16b
and v3.16b, v3.16b, v5.16b
sdot v30.4s, v9.16b, v7.16b
and v1.16b, v1.16b, v5.16b
add w5, w5, #0x10
sdot v12.4s, v9.16b, v16.16b
ldp q16, q7, [sp, #0x2b0]
and v9.16b, v10.16b, v5.16b
and v10.16b, v14.16b, v5.16b
and v2.16b, v2.16b, v5.16b
ldp q14, q31, [sp, #0x290]
sdot v29.4s, v4.16b, v18.16b
sdot v26.4s, v15.16b, v7.16b
sdot v6.4s, v15.16b, v16.16b
sdot v28.4s, v0.16b, v17.16b
sdot v11.4s, v0.16b, v18.16b
ldp q4, q0, [x12, #0x20]
sdot v30.4s, v2.16b, v17.16b
sdot v12.4s, v2.16b, v18.16b
sdot v27.4s, v10.16b, v7.16b
ldp q18, q17, [sp, #0x270]
sdot v29.4s, v10.16b, v16.16b
sdot v26.4s, v8.16b, v31.16b
sdot v6.4s, v8.16b, v14.16b
and v8.16b, v4.16b, v5.16b
ushr v4.4s, v4.4s, #0x4
add x12, x0, x20
sdot v27.4s, v3.16b, v31.16b
ldp q2, q10, [x12]
sdot v28.4s, v8.16b, v7.16b
sdot v11.4s, v8.16b, v16.16b
sdot v29.4s, v3.16b, v14.16b
sdot v26.4s, v9.16b, v17.16b
sdot v6.4s, v9.16b, v18.16b
and v9.16b, v0.16b, v5.16b
ushr v0.4s, v0.4s, #0x4
and v4.16b, v4.16b, v5.16b
and v3.16b, v13.16b, v5.16b
and v8.16b, v2.16b, v5.16b
ushr v2.4s, v2.4s, #0x4
sdot v30.4s, v9.16b, v7.16b
sdot v12.4s, v9.16b, v16.16b
sdot v26.4s, v1.16b, v19.16b
sdot v6.4s, v1.16b, v20.16b
ushr v1.4s, v13.4s, #0x4
ldp q13, q9, [x15, #0x20]
and v0.16b, v0.16b, v5.16b
sdot v28.4s, v4.16b, v31.16b
sdot v11.4s, v4.16b, v14.16b
sdot v27.4s, v3.16b, v17.16b
sdot v29.4s, v3.16b, v18.16b
and v1.16b, v1.16b, v5.16b
and v3.16b, v13.16b, v5.16b
ushr v4.4s, v13.4s, #0x4
sdot v30.4s, v0.16b, v31.16b
and v13.16b, v9.16b, v5.16b
ushr v9.4s, v9.4s, #0x4
sdot v12.4s, v0.16b, v14.16b
and v0.16b, v2.16b, v5.16b
sdot v26.4s, v8.16b, v21.16b
sdot v6.4s, v8.16b, v22.16b
sdot v28.4s, v3.16b, v17.16b
sdot v11.4s, v3.16b, v18.16b
and v2.16b, v4.16b, v5.16b
ldp q4, q8, [x12, #0x20]
sdot v30.4s, v13.16b, v17.16b
sdot v27.4s, v1.16b, v19.16b
and v3.16b, v9.16b, v5.16b
sdot v29.4s, v1.16b, v20.16b
and v1.16b, v10.16b, v5.16b
sdot v12.4s, v13.16b, v18.16b
ushr v9.4s, v10.4s, #0x4
sdot v28.4s, v2.16b, v19.16b
sdot v11.4s, v2.16b, v20.16b
and v10.16b, v4.16b, v5.16b
sdot v30.4s, v3.16b, v19.16b
ushr v2.4s, v4.4s, #0x4
and v4.16b, v8.16b, v5.16b
sdot v27.4s, v1.16b, v21.16b
ushr v8.4s, v8.4s, #0x4
add x12, x3, w24, sxtw #1
sdot v12.4s, v3.16b, v20.16b
and v3.16b, v9.16b, v5.16b
sdot v29.4s, v1.16b, v22.16b
sdot v28.4s, v10.16b, v21.16b
sdot v11.4s, v10.16b, v22.16b
movi v10.16b, #0xf
sdot v30.4s, v4.16b, v21.16b
sdot v26.4s, v0.16b, v23.16b
sdot v6.4s, v0.16b, v24.16b
and v0.16b, v2.16b, v5.16b
sdot v27.4s, v3.16b, v23.16b
sdot v12.4s, v4.16b, v22.16b
sdot v29.4s, v3.16b, v24.16b
ldp d4, d3, [x12]
and v1.16b, v8.16b, v10.16b
sdot v28.4s, v0.16b, v23.16b
shl v2.4s, v26.4s, #0x8
sdot v11.4s, v0.16b, v24.16b
shl v26.4s, v27.4s, #0x8
sdot v30.4s, v1.16b, v23.16b
fcvtl v4.4s, v4.4h
sdot v12.4s, v1.16b, v24.16b
ldp d1, d27, [x12, #0x10]
fcvtl v3.4s, v3.4h
add v2.4s, v6.4s, v2.4s
shl v0.4s, v28.4s, #0x8
add v26.4s, v26.4s, v29.4s
shl v28.4s, v30.4s, #0x8
ldp q29, q30, [x6]
fcvtl v1.4s, v1.4h
fcvtl v27.4s, v27.4h
add v0.4s, v0.4s, v11.4s
scvtf v2.4s, v2.4s
fmul v4.4s, v4.4s, v25.s[0]
scvtf v26.4s, v26.4s
add v28.4s, v28.4s, v12.4s
fmul v3.4s, v3.4s, v25.s[0]
scvtf v0.4s, v0.4s
fmul v1.4s, v1.4s, v25.s[0]
fmul v27.4s, v27.4s, v25.s[0]
scvtf v28.4s, v28.4s
fmla v29.4s, v4.4s, v2.4s
fmla v30.4s, v3.4s, v26.4s
ldp q2, q3, [x6, #0x20]
fmla v2.4s, v1.4s, v0.4s
fmla v3.4s, v27.4s, v28.4s
stp q29, q30, [x6]
stp q2, q3, [x6, #0x20]
add x6, x6, #0x40
b.lt 0x1be4
