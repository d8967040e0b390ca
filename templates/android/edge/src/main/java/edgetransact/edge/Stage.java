package edgetransact.edge;

/** What a model goes through before it can answer. */
public enum Stage {
    /** Weights are copied out of the app, once. In bytes. */
    COPY,
    /** Weights are downloaded, once. In bytes. */
    DOWNLOAD,
    /** Weights are compared with their sha256, once. In bytes. */
    VERIFY,
    /** The engine reads the weights. It doesn't tell how far it is: 0 of 1, then 1 of 1. */
    LOAD,
    /** A first answer, for which the phone compiles its OpenCL kernels: up to a minute, once. 0 of 1, then 1 of 1. */
    KERNELS
}
