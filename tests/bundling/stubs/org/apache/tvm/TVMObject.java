package org.apache.tvm;

public class TVMObject extends TVMValue {
    protected TVMObject() {}

    public native void release();
}
