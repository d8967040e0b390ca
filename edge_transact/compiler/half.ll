; fp16 to fp32 and back, for CPUs without instructions for it. $N is the number of lanes.

define <$N x float> @edge_widen_$N(<$N x half> %half) {
  %word = bitcast <$N x half> %half to <$N x i16>
  %bits = zext <$N x i16> %word to <$N x i32>
  %magnitude = and <$N x i32> %bits, splat (i32 32767)
  ; A subnormal number is converted as an integer, times 2^-24: as a subnormal fp32, it would take a hundred cycles.
  %integer = sitofp <$N x i32> %magnitude to <$N x float>
  %subnormal = fmul <$N x float> %integer, splat (float 0x3E70000000000000)
  ; The exponent grows by 224, and the number times 2^-112: infinity has the largest exponent before and after.
  %shifted = shl <$N x i32> %magnitude, splat (i32 13)
  %moved = add <$N x i32> %shifted, splat (i32 1879048192)
  %large = bitcast <$N x i32> %moved to <$N x float>
  %normal = fmul <$N x float> %large, splat (float 0x38F0000000000000)
  %is_subnormal = icmp ult <$N x i32> %magnitude, splat (i32 1024)
  %value = select <$N x i1> %is_subnormal, <$N x float> %subnormal, <$N x float> %normal
  %unsigned = bitcast <$N x float> %value to <$N x i32>
  %sign = xor <$N x i32> %bits, %magnitude
  %high = shl <$N x i32> %sign, splat (i32 16)
  %joined = or <$N x i32> %unsigned, %high
  %single = bitcast <$N x i32> %joined to <$N x float>
  ret <$N x float> %single
}

; Rounds to the nearest, ties to even.
define <$N x half> @edge_narrow_$N(<$N x float> %single) {
  %bits = bitcast <$N x float> %single to <$N x i32>
  %magnitude = and <$N x i32> %bits, splat (i32 2147483647)
  %absolute = bitcast <$N x i32> %magnitude to <$N x float>
  ; Times 2^112, what is too large becomes infinite; times 2^-110, the rest is 4 times as large.
  %large = fmul <$N x float> %absolute, splat (float 0x46F0000000000000)
  %scaled = fmul <$N x float> %large, splat (float 0x3910000000000000)
  ; Added to a number with an exponent larger by 15, it is rounded to fp16's fraction, below its exponent less 1.
  %own = and <$N x i32> %magnitude, splat (i32 2139095040)
  %is_normal = icmp ugt <$N x i32> %own, splat (i32 947912704)
  %least = select <$N x i1> %is_normal, <$N x i32> %own, <$N x i32> splat (i32 947912704)
  %raised = add <$N x i32> %least, splat (i32 125829120)
  %base = bitcast <$N x i32> %raised to <$N x float>
  %sum = fadd <$N x float> %scaled, %base
  %rounded = bitcast <$N x float> %sum to <$N x i32>
  %shifted = lshr <$N x i32> %rounded, splat (i32 13)
  %exponent = and <$N x i32> %shifted, splat (i32 31744)
  %fraction = and <$N x i32> %rounded, splat (i32 4095)
  %number = add <$N x i32> %exponent, %fraction
  %is_nan = icmp ugt <$N x i32> %magnitude, splat (i32 2139095040)
  %value = select <$N x i1> %is_nan, <$N x i32> splat (i32 32256), <$N x i32> %number
  %sign = xor <$N x i32> %bits, %magnitude
  %high = lshr <$N x i32> %sign, splat (i32 16)
  %joined = or <$N x i32> %value, %high
  %word = trunc <$N x i32> %joined to <$N x i16>
  %half = bitcast <$N x i16> %word to <$N x half>
  ret <$N x half> %half
}
