package org.apache.tvm;

public class TVMValue {
    final Object value;

    TVMValue(Object value) {
        this.value = value;
    }

    public String asString() {
        return (String) value;
    }

    public Module asModule() {
        return (Module) value;
    }
}
