package org.apache.tvm;

/** Signatures of tvm4j, as far as the app calls them: {@code jvm/core} of Apache TVM. */
public class TVMValue {
    protected TVMValue() {}

    public native String asString();

    public native Module asModule();
}
