package org.apache.tvm;

public class Function extends TVMObject {
    Function() {}

    public static native Function getFunction(String name);

    public static native Function convertFunc(Callback function);

    public native TVMValue invoke();

    public native Function pushArg(int arg);

    public native Function pushArg(long arg);

    public native Function pushArg(float arg);

    public native Function pushArg(double arg);

    public native Function pushArg(String arg);

    public native Function pushArg(Module arg);

    public native Function pushArg(Function arg);

    public native Function pushArg(byte[] arg);

    public native Function pushArg(Device arg);

    public interface Callback {
        Object invoke(TVMValue... args);
    }
}
