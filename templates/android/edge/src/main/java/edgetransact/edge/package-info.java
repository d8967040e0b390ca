/**
 * Runs models that edge-transact built, with MLC-LLM's engine, without anything of Android.
 *
 * <pre>{@code
 * Model model = Models.read(modelsJson).list().get(0);
 * Path weights = store.prepare(model, progress);                 // a WeightStore: copied once, verified once
 * Session session = Session.start(model, phone, Preference.AUTO, starts, weights, engines, progress); // GPU or CPU
 * Conversation chat = session.conversation("Be brief.", saved, sampling);
 * chat.send("Hello!", listener);                                 // streams the answer; chat.stop() ends it
 * }</pre>
 *
 * <p>{@code edgetransact.edge.android} has what comes from Android: the engine, the phone's facts and the app's files.
 * {@code prepare}, {@code load} and {@code close} block, so call them from a thread of your own.
 */
package edgetransact.edge;
