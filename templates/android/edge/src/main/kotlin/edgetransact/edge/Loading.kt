package edgetransact.edge

/** What [Edge.loading] tells: steps, and last of all the model. */
public sealed interface Loading {
    /**
     * How far loading is.
     *
     * @property stage what is being done.
     * @property done what is done of [total].
     * @property total bytes of `COPY`, `DOWNLOAD` and `VERIFY`; 1 for other stages, which don't tell how far they are.
     */
    public data class Step(
        public val stage: Stage,
        public val done: Long,
        public val total: Long,
    ) : Loading

    /**
     * The model is loaded. Whoever hears this closes it.
     *
     * @property edge the model.
     */
    public class Ready(public val edge: Edge) : Loading
}
